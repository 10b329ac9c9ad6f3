// Contract 1: `socket.id` is the connection's id, and nobody who knows it can do anything with it. The Engine.IO session id is the
// credential, and its client alone is told.

import assert from 'node:assert/strict';
import http from 'node:http';
import { answers, connect, connected, eventually, exchange, onBothRegistries, Polling, someone, test, token, within } from './harness.mjs';

const POLLING = '/socket.io/?EIO=4&transport=polling';
const WAYS = { websocket: ['websocket'], polling: ['polling'], upgrade: ['polling', 'websocket'] };

/** The stock client by one of the ways; one that upgrades has done so. */
async function come(world, way, options) {
  const client = await connected(world.door, { transports: WAYS[way], ...options });
  if (way === 'upgrade') await eventually('the stock client has upgraded', async () => client.socket.io.engine.transport.name === 'websocket');
  return client;
}

/** What a WebSocket upgrade is answered with: `{status, text}`; 101 as soon as it is granted. */
function upgrade(url, path, headers = {}) {
  const { hostname, port } = new URL(url);
  const answer = new Promise((resolve, reject) => {
    const request = http.request({
      hostname, port, path, agent: false,
      headers: { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==', ...headers },
    });
    request.on('upgrade', (response, socket) => {
      socket.destroy();
      resolve({ status: response.statusCode, text: '' });
    });
    request.on('response', (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part) => (text += part)).on('end', () => resolve({ status: response.statusCode, text }));
    });
    request.on('error', reject).end();
  });
  return within(10000, `an answer to an upgrade of ${path}`, answer);
}

/** Every try to be somebody else by an id alone; none may be let in. */
async function tries(url, id) {
  const sid = encodeURIComponent(id);
  const headers = { 'content-type': 'text/plain;charset=UTF-8' };
  const found = {};
  const note = (what, { status, text }) => (found[what] = { status, text });
  for (const body of ['42["hijacked"]', '421["devices"]', '41', '1', '3', '40{}']) note(`POST ${body}`, await exchange(url, 'POST', `${POLLING}&sid=${sid}`, { headers, body }));
  note('GET', await exchange(url, 'GET', `${POLLING}&sid=${sid}`));
  note('GET with a cookie', await exchange(url, 'GET', `${POLLING}&sid=${sid}`, { headers: { cookie: `io=${sid}` } }));
  note('GET with the parameters turned round', await exchange(url, 'GET', `/socket.io/?sid=${sid}&transport=polling&EIO=4`));
  note('WebSocket', await upgrade(url, `/socket.io/?EIO=4&transport=websocket&sid=${sid}`));
  note('WebSocket that names itself polling', await upgrade(url, `${POLLING}&sid=${sid}`));
  return found;
}

onBothRegistries((world) => {
  for (const way of Object.keys(WAYS)) {
    test(`${way}: socket.id is ready.connectionId, its own in each namespace and after each CONNECT`, async () => {
      const user = someone('named');
      const client = await come(world, way, { user });
      const open = client.join('/public');
      await open.ready();
      const known = new Set();
      const look = async (one, nth) => {
        const { connectionId } = await one.ready({ nth });
        assert.equal(one.socket.id, connectionId, 'expected socket.id to be ready.connectionId');
        assert.ok(!known.has(connectionId), 'expected an id of its own for each namespace and each CONNECT');
        known.add(connectionId);
        const { sid } = one.socket.io.engine.transport.query;
        assert.ok(sid && sid !== connectionId && !sid.includes(connectionId) && !connectionId.includes(sid), 'expected the id of the session to be another');
        assert.equal((await world.api.connection(connectionId)).id, connectionId, 'expected /v1/connections/{id} to know the same name');
      };
      await look(client, 1);
      await look(open, 1);
      // The same transport, and another CONNECT packet.
      for (let nth = 2; nth <= 3; nth += 1) {
        client.socket.disconnect();
        client.socket.connect();
        await look(client, nth);
      }
      // Another transport.
      assert.equal((await world.api.disconnect(user, { code: 4003, reconnect: true })).disconnected, 2);
      await look(client, 4);
      await look(open, 2);
      assert.equal(known.size, 6);
    });

    test(`${way}: who knows a socket.id can do nothing with it`, async () => {
      const user = someone('victim');
      const client = await come(world, way, { user });
      const open = client.join('/public');
      await open.ready();
      const ids = new Set([client, open].flatMap((one) => [one.socket.id, one.id]));
      for (const id of ids) {
        for (const [what, { status, text }] of Object.entries(await tries(world.door.url, id))) {
          assert.equal(status, 400, `expected ${what} with a socket.id as sid to be refused, got ${status}: ${text}`);
          assert.match(text, /Session ID unknown/, `expected ${what} with a socket.id as sid to be an unknown session, got ${text}`);
        }
      }
      // Its owner has noticed nothing.
      assert.deepEqual((await world.api.user(user)).connections.map((one) => one.id).sort(), [client.id, open.id].sort());
      await world.api.send(user, 'still', 1);
      await client.wait('still');
      assert.deepEqual(client.seen.map(({ name }) => name), ['connect', 'ready', 'still'], client.history());
      assert.equal(open.count('disconnect'), 0);
    });

    test(`${way}: the id of a session is told to its client alone`, async () => {
      const user = someone('hidden');
      const from = answers.length;
      const client = await come(world, way, { user });
      const open = client.join('/public');
      await open.ready();
      const bystander = await connected(world.door, { user: someone('bystander') });
      const { sid } = client.socket.io.engine.transport.query;
      assert.ok(sid?.length >= 16, `expected a session id of 96 random bits at least, got ${sid}`);

      await connect(world.door, { token: 'rubbish' }).refused('Invalid token');
      await world.api.user(user);
      for (const { id } of [client, open]) await world.api.connection(id);
      await world.api.ok('GET', '/v1/users');
      await world.api.ok('POST', '/v1/presence', { users: [user] });
      await world.api.nodes();
      await world.api.stats();
      await world.api.request('GET', `/v1/connections/${encodeURIComponent(sid)}`);
      client.answer('ask', 1);
      await world.api.send(user, 'ask', 1, { ack: { timeoutMs: 300 } });
      await client.granted('devices');
      // One that breaks the rules of the session, which is worth a line of the log.
      await exchange(world.door.url, 'POST', `${POLLING}&sid=${encodeURIComponent(sid)}`, { headers: { 'content-type': 'text/plain' }, body: 'garbage' });
      await world.api.disconnect(user);
      await eventually('the connection is logged as ended', async () => world.door.log.includes(client.id));
      await world.door.api.request('GET', '/metrics');

      const answered = answers.slice(from);
      // The one that was asked for it names the path that was asked for.
      assert.ok(!answered.some((text) => text.includes(sid)), `expected no API answer and no metric to hold a session id: ${answered.find((text) => text.includes(sid))?.slice(0, 300)}`);
      for (const one of [client, open, bystander]) {
        const heard = JSON.stringify(one.seen.map((entry) => entry.args.map((value) => (value instanceof Error ? value.message : value))));
        assert.ok(!heard.includes(sid), 'expected no payload to hold a session id');
      }
      for (const node of new Set([world.door, world.desk])) {
        assert.equal(node.lines.find((line) => line.includes(sid)), undefined, `expected no log line of ${node.name} to hold a session id`);
      }
    });
  }

  test('the session id is the credential: with it, and only with it, a poll is answered', async () => {
    const user = someone('owner');
    const session = await Polling.open(world.door.url);
    const { connectionId } = await session.connect({ token: token(user) });
    const refused = await exchange(world.door.url, 'GET', `${POLLING}&sid=${encodeURIComponent(connectionId)}`);
    assert.equal(refused.status, 400, refused.text);
    await world.api.send(user, 'mine', 1);
    await session.until(/^42\["mine",1\]$/);
  });

  test('session ids are not to be guessed from others', async () => {
    const sids = [];
    for (let i = 0; i < 50; i += 1) sids.push((await Polling.open(world.door.url)).sid);
    // That two of 50 random ids have the same eight characters somewhere happens in one of 10^10 runs.
    for (let at = 0; at + 8 <= sids[0].length; at += 1) {
      assert.equal(new Set(sids.map((sid) => sid.slice(at, at + 8))).size, sids.length, `expected session ids to differ from character ${at} on: ${sids.slice(0, 3)}`);
    }
  });
}, { env: { SWITCHBOARD_LOG__LEVEL: 'trace' } });
