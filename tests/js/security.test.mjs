// What must not leak, and what must not be let in.

import assert from 'node:assert/strict';
import WebSocket from 'ws';
import { answers, API_KEY, connect, connected, eventually, exchange, JWT_SECRET, onBothRegistries, Polling, RawSocket, runBinary, someone, startRedis, test, token, writeScratch } from './harness.mjs';

const EVIL = 'https://evil.example';
const FRIEND = 'https://app.example';
const POLLING = '/socket.io/?EIO=4&transport=polling';

onBothRegistries((world) => {
  test('the Engine.IO sid appears in no answer, no payload and no log; socket.id is the connection id', async () => {
    const user = someone('hidden');
    const secrets = new Set();
    const from = answers.length;
    const clients = [];
    for (const transports of [['websocket'], ['polling'], ['polling', 'websocket']]) {
      const client = await connected(world.door, { user, transports });
      clients.push(client);
      secrets.add(client.socket.io.engine.id);
      const open = client.join('/public');
      await open.ready();
      clients.push(open);
    }
    const raw = await Polling.open(world.door.url);
    await raw.connect({ token: token(user) });
    secrets.add(raw.sid);
    await connect(world.door, { token: 'rubbish' }).refused('Invalid token');
    const ids = clients.map(({ id }) => id);
    assert.equal(new Set(ids).size, ids.length, 'expected a name of its own for each namespace of each client');
    assert.deepEqual(clients.map(({ socket }) => socket.id), ids);

    await world.api.user(user);
    for (const { id } of clients) await world.api.connection(id);
    await world.api.ok('GET', '/v1/users');
    await world.api.ok('POST', '/v1/presence', { users: [user] });
    await world.api.nodes();
    await world.api.stats();
    clients.forEach((client) => client.answer('ask', 1));
    await world.api.send(user, 'ask', 1, { ack: { timeoutMs: 300 } });
    await world.door.api.request('GET', '/metrics');
    await world.api.disconnect(user);
    for (const client of clients) await client.wait('disconnect');
    await world.door.line(/\S/);

    const answered = answers.slice(from).join('\n');
    const received = JSON.stringify(clients.map((client) => client.seen.map((entry) => entry.args.map((value) => (value instanceof Error ? value.message : value)))));
    const polled = raw.packets.filter((packet) => !packet.startsWith('0')).join('\n');
    for (const id of secrets) {
      assert.ok(id?.length >= 10, `expected a session id, got ${id}`);
      assert.ok(!answered.includes(id), 'expected no API answer to hold an Engine.IO session id: whoever knows it can write into a polling session');
      assert.ok(!received.includes(id) && !polled.includes(id), 'expected no payload to hold an Engine.IO session id');
      for (const node of new Set([world.door, world.desk])) assert.ok(!node.log.includes(id), `expected no log line of ${node.name} to hold an Engine.IO session id`);
    }
  });

  test('logs hold no token, no key and no secret; a line for each connection at its end', async () => {
    const user = someone('logged');
    const good = token(user);
    const expired = token(user, { exp: Math.floor(Date.now() / 1000) - 60 });
    const inQuery = token('query-user', { marker: 'query' });
    const inHeader = token(user, { marker: 'header' });
    const client = await connected(world.door, { token: good });
    await connect(world.door, { token: expired }).refused('Invalid or expired token');
    await connect(world.door, { token: 'a-token-that-is-rubbish-0123456789' }).refused('Invalid token');
    await connect(world.door, { auth: {}, query: { token: inQuery } }).refused('Authentication token required');
    await connected(world.door, { auth: {}, extraHeaders: { authorization: `Bearer ${inHeader}`, cookie: 'session=a-cookie-0123456789' } });
    await world.api.request('GET', '/v1/stats', { key: 'a-wrong-key-0123456789' });
    await world.api.request('GET', `/v1/stats?key=a-key-in-a-query-0123456789`, { key: null });
    await world.api.request('POST', `/v1/users/${user}/events`, { body: '{"event":"x","data":"a-malformed-body-0123456789' });
    await world.api.send(user, 'private', 'the-content-of-a-message-0123456789');
    await client.wait('private');
    await world.api.disconnect(user);
    await eventually('the node logs one readable line for a connection at its end', async () => {
      assert.ok(world.door.log.includes(client.id), `expected a line with the connection's id ${client.id}`);
    });
    const words = { 'a token': good, 'an expired token': expired, 'a token of the query': inQuery, 'a token of a header': inHeader, 'a token that is none': 'a-token-that-is-rubbish', 'the API key': API_KEY,
      'a wrong API key': 'a-wrong-key-0123456789', 'a key in a query': 'a-key-in-a-query', 'the signing secret': JWT_SECRET, 'a cookie': 'a-cookie-0123456789', 'a body': 'a-malformed-body', 'a message': 'the-content-of-a-message' };
    for (const node of new Set([world.door, world.desk])) {
      for (const [what, word] of Object.entries(words)) {
        const hit = node.lines.find((line) => line.includes(word) || line.includes(word.split('.')[2] || word));
        assert.equal(hit, undefined, `expected ${what} not to be in the log of ${node.name}`);
      }
    }
  });

  test('the id of a killed polling session is refused as unknown', async () => {
    const user = someone('killed');
    const session = await Polling.open(world.door.url);
    await session.connect({ token: token(user) });
    await world.api.disconnect(user);
    await session.refused();
    const raw = new RawSocket(world.door.url, { sid: session.sid });
    await raw.closed;
    assert.ok(raw.error || raw.packets.length === 0, 'expected no upgrade of a killed session');
    assert.ok(!raw.packets.includes('3probe'), 'expected no upgrade of a killed session');
  });

  test('a connectionId opens no session', async () => {
    const user = someone('owner');
    const session = await Polling.open(world.door.url);
    const { connectionId } = await session.connect({ token: token(user) });
    assert.ok(!connectionId.includes(session.sid) && !session.sid.includes(connectionId), 'expected the connectionId to have nothing of the sid');
    const answer = await exchange(world.door.url, 'POST', `${POLLING}&sid=${encodeURIComponent(connectionId)}`, { body: '42["x"]', headers: { 'content-type': 'text/plain' } });
    assert.equal(answer.status, 400, `expected a connectionId to be an unknown session, got ${answer.status}: ${answer.text}`);
  });

  test('a token in the query string is never read, not even a good one beside a bad one', async () => {
    const query = { token: token('7'), access_token: token('7'), auth: token('7') };
    await connect(world.door, { auth: {}, query }).refused('Authentication token required');
    await connect(world.door, { token: 'rubbish', query }).refused('Invalid token');
    const guest = connect(world.door, { auth: {}, query, namespace: '/public' });
    assert.equal((await guest.ready()).userId, null, 'expected a token in the query not to be recognised in /public either');
  });

  test('a hundred bad tokens on one transport, and the next client is fine', async () => {
    // Ten times: packets that come while the transport is being ended must not take the answer with them, and whether one
    // comes at that moment is chance.
    for (let round = 0; round < 10; round += 1) {
      const raw = await new RawSocket(world.door.url).open();
      for (let i = 0; i < 100 && raw.ws.readyState === WebSocket.OPEN; i += 1) raw.ws.send(`40{"token":"bad-${i}"}`);
      await raw.until(/^44\{"message":"Invalid token","data":\{"code":"invalid_token"\}\}$/);
      raw.ws.terminate();
    }
    await connected(world.door, { user: someone() });
  });

  for (const [what, packets] of [
    ['a packet of an unknown type', ['9']],
    ['a Socket.IO packet of an unknown type', ['49']],
    ['an event before CONNECT', ['42["x"]']],
    ['a binary event whose attachments never come', ['451-["x",{"_placeholder":true,"num":0}]', '42["x"]']],
    ['an event with 10,000 attachments', ['4510000-["x",{"_placeholder":true,"num":0}]']],
    ['an ack for nothing', ['43999[1]']],
    ['an ack id that is too large', ['4399999999999999999999999[1]']],
    ['half a JSON', ['42["x",{']],
    ['an event without a name', ['42[]']],
    ['deep nesting', [`42["x",${'['.repeat(5000)}${']'.repeat(5000)}]`]],
    ['characters of four bytes', ['42["😀","𝔘"]', '4😀', '😀']],
    ['a namespace that is not there', ['42/nowhere,["x"]']],
    ['CONNECT twice', ['40{"token":"x"}', '40{"token":"x"}']],
    ['an empty packet', ['']],
    ['an open packet', ['0{"sid":"x"}']],
  ]) {
    test(`${what} does not hurt the neighbours`, async () => {
      const user = someone('neighbour');
      const neighbour = await connected(world.door, { user });
      const raw = new RawSocket(world.door.url);
      await raw.connect({ token: token(someone('hostile')) });
      const early = await new RawSocket(world.door.url).open();
      for (const packet of packets) {
        for (const socket of [raw, early]) if (socket.ws.readyState === WebSocket.OPEN) socket.ws.send(packet);
      }
      const session = await Polling.open(world.door.url);
      await session.post(...packets);
      await world.api.send(user, 'fine', 1);
      await neighbour.wait('fine');
      assert.equal(neighbour.count('disconnect'), 0);
      assert.equal(neighbour.count('ready'), 1);
    });
  }
});

// --- origins ----------------------------------------------------------------------------------------------------------

const preflight = (url, origin) => exchange(url, 'OPTIONS', POLLING, { headers: { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'authorization,content-type' } });

test('without cors.allowed_origins no other origin is told that it may', async ({ node }) => {
  const door = await node();
  const answer = await exchange(door.url, 'GET', POLLING, { headers: { origin: EVIL } });
  assert.equal(answer.headers['access-control-allow-origin'], undefined, 'expected no Access-Control-Allow-Origin for a foreign origin by default');
  assert.equal((await preflight(door.url, EVIL)).headers['access-control-allow-origin'], undefined, 'expected no Access-Control-Allow-Origin in a preflight by default');
  const own = await exchange(door.url, 'GET', POLLING, { headers: { origin: door.url } });
  assert.equal(own.status, 200, 'expected the page\'s own origin to be served');
});

test('a page that its browser keeps out is in the log, with the key to set', async ({ node }) => {
  const door = await node();
  await exchange(door.url, 'GET', POLLING, { headers: { origin: EVIL } });
  const [line] = await door.line(/^.*cors\.allowed_origins.*$/);
  assert.ok(line.includes(EVIL), line);
});

test('development mode lets pages of this machine in, of any port, and no others', async ({ node }) => {
  const door = await node({ bare: true });
  for (const origin of ['http://localhost:5173', 'http://127.0.0.1:8080', 'http://[::1]:3001', 'https://localhost']) {
    const answer = await exchange(door.url, 'GET', POLLING, { headers: { origin, cookie: 'a=b' } });
    assert.deepEqual([answer.status, answer.headers['access-control-allow-origin']], [200, origin]);
    assert.equal((await preflight(door.url, origin)).headers['access-control-allow-origin'], origin);
  }
  for (const origin of [EVIL, 'http://localhost.evil.example', 'null']) {
    const answer = await exchange(door.url, 'GET', POLLING, { headers: { origin } });
    assert.equal(answer.headers['access-control-allow-origin'], undefined, origin);
  }
});

test('cors.allowed_origins: those and no others', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_CORS__ALLOWED_ORIGINS: `${FRIEND},https://other.example` } });
  for (const origin of [FRIEND, 'https://other.example']) {
    const answer = await exchange(door.url, 'GET', POLLING, { headers: { origin } });
    assert.equal(answer.status, 200);
    assert.equal(answer.headers['access-control-allow-origin'], origin, 'expected the allowed origin itself, never *');
    assert.match(answer.headers.vary ?? '', /origin/i, 'expected Vary: Origin, so that caches keep origins apart');
    const asked = await preflight(door.url, origin);
    assert.ok(asked.status >= 200 && asked.status < 300, `expected the preflight of an allowed origin to pass, got ${asked.status}`);
    assert.equal(asked.headers['access-control-allow-origin'], origin);
    assert.match(asked.headers['access-control-allow-headers'] ?? '', /authorization|\*/i, 'expected the Authorization header to be allowed');
  }
  for (const origin of [EVIL, `${FRIEND}.evil.example`, 'https://app.example:8443', 'http://app.example', 'null']) {
    const answer = await exchange(door.url, 'GET', POLLING, { headers: { origin } });
    assert.equal(answer.headers['access-control-allow-origin'], undefined, `expected no Access-Control-Allow-Origin for ${origin}`);
    assert.equal((await preflight(door.url, origin)).headers['access-control-allow-origin'], undefined, `expected no Access-Control-Allow-Origin for a preflight of ${origin}`);
  }
});

/** The HTTP status of a WebSocket upgrade: 101, or what it was refused with. */
function upgrade(url, headers) {
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(`${url.replace(/^http/, 'ws')}/socket.io/?EIO=4&transport=websocket`, { headers, perMessageDeflate: false });
    ws.on('open', () => {
      ws.terminate();
      resolve(101);
    });
    ws.on('unexpected-response', (request, response) => {
      request.destroy();
      resolve(response.statusCode);
    });
    ws.on('error', reject);
  });
}

test('a WebSocket with a cookie is opened by pages of one\'s own only; any other Origin gets 403', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_CORS__ALLOWED_ORIGINS: FRIEND } });
  const cookie = 'connect.sid=s%3Ahello.DGDUkGlIkCzPz%2BC0B064FNgHdEjox7ch8tOBGslZ5QI';
  assert.equal(await upgrade(door.url, { cookie, origin: EVIL }), 403, 'expected 403 to a foreign origin with a cookie');
  assert.equal(await upgrade(door.url, { cookie, origin: FRIEND }), 101, 'expected an allowed origin to pass');
  assert.equal(await upgrade(door.url, { cookie, origin: door.url }), 101, 'expected the same origin to pass');
  assert.equal(await upgrade(door.url, { cookie }), 101, 'expected a client that is no browser to pass');
});

test('the HTTP API gives no origin a way in', async ({ node }) => {
  const door = await node();
  for (const path of ['/v1/stats', '/metrics']) {
    const answer = await door.api.request('GET', path, { headers: { origin: EVIL } });
    assert.equal(answer.headers['access-control-allow-origin'], undefined, `expected no Access-Control-Allow-Origin on ${path}`);
  }
});

test('a Redis password is in no log and no error', async ({ node }) => {
  const store = await startRedis();
  try {
    const url = store.url.replace('//', '//default:redis-password-0123456789@');
    await store.command('CONFIG', 'SET', 'requirepass', 'redis-password-0123456789');
    const door = await node({ redis: { url } });
    await connected(door, { user: someone() });
    assert.ok(!door.log.includes('redis-password'), 'expected the password of the Redis URL not to be logged');
    await store.stop();
    await eventually('readyz says what is wrong', async () => (await door.api.request('GET', '/readyz')).status === 503, { ms: 15000 });
    const said = [await door.api.request('GET', '/readyz'), await door.api.request('GET', '/v1/stats')].map((answer) => answer.text).join('\n');
    assert.ok(!said.includes('redis-password') && !door.log.includes('redis-password'), 'expected the password of the Redis URL not to be shown');
  } finally {
    await store.stop();
  }
});

test('a cookie of a page of the same host over plain HTTP, or of one that the browser calls another site, gets 403', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_CORS__ALLOWED_ORIGINS: FRIEND, SWITCHBOARD_TRUSTED_PROXIES: '127.0.0.0/8' } });
  const host = 'app.gateway.example';
  const status = async (headers, { method = 'GET', path = POLLING } = {}) => (await exchange(door.url, method, path, { headers: { host, cookie: 'a=b', 'content-length': 0, ...headers } })).status;
  const upgrade = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==' };
  const tls = { 'x-forwarded-proto': 'https' };
  const [own, plain] = [`https://${host}`, `http://${host}`];
  for (const [what, headers, may] of [
    ['its own origin', { ...tls, origin: own }, true],
    ['its own origin, as the browser says', { ...tls, origin: own, 'sec-fetch-site': 'same-origin' }, true],
    ['its own poll', { ...tls, 'sec-fetch-site': 'same-origin' }, true],
    ['no browser', tls, true],
    ['the same host over plain HTTP', { ...tls, origin: plain }, false],
    ['the same host over plain HTTP, as the browser says', { origin: plain, 'sec-fetch-site': 'cross-site' }, false],
    ['another site', { ...tls, origin: EVIL, 'sec-fetch-site': 'cross-site' }, false],
    ["another site's image", { ...tls, 'sec-fetch-site': 'cross-site' }, false],
    ["a sibling's image", { 'sec-fetch-site': 'same-site' }, false],
    ['a friend', { ...tls, origin: FRIEND, 'sec-fetch-site': 'cross-site' }, true],
  ]) {
    assert.equal(await status(headers), may ? 200 : 403, what);
    if (!may) assert.equal(await status({ ...headers, ...upgrade }, { path: POLLING.replace('polling', 'websocket') }), 403, `${what}, by WebSocket`);
    assert.equal(await status(headers, { method: 'POST', path: '/api/logout' }), may ? 204 : 403, `${what}, at /api/logout`);
    assert.equal(await status({ ...headers, cookie: [] }), 200, `${what}, without a cookie`);
  }
});

test('a short API key is refused where others could guess at it, by its name', async () => {
  const check = (listen, env, config = '') => runBinary(['check-config', '--config', writeScratch('toml', config)], { env: { SWITCHBOARD_JWT_SECRET: JWT_SECRET, SWITCHBOARD_LISTEN: listen, ...env } });
  const named = '[[api.keys]]\nname = "shop"\nkey = "fifteen-letters"\nscopes = ["read"]\n';
  for (const [env, config, culprit] of [
    [{ SWITCHBOARD_API_KEY: 'a' }, '', /^api\.key \(from SWITCHBOARD_API_KEY\): has fewer than 16 characters/m],
    [{ SWITCHBOARD_API_KEY: API_KEY }, named, /^api\.keys\.0\.key \(in .*\): has fewer than 16 characters/m],
  ]) {
    const refused = await check('0.0.0.0:3000', env, config);
    assert.equal(refused.code, 1, refused.output);
    assert.match(refused.output, culprit);
    assert.ok(!refused.output.includes('fifteen-letters'), refused.output);
    const fine = await check('127.0.0.1:3000', env, config);
    assert.equal(fine.code, 0, fine.output);
  }
});

test('a token with "Bearer " in front is taken in auth.token', async ({ node }) => {
  const door = await node();
  const user = someone();
  for (const scheme of ['Bearer ', 'bearer ', 'Bearer   ']) assert.equal((await connect(door, { token: scheme + token(user) }).ready()).userId, user);
  await connect(door, { token: 'Bearer x' }).refused('Invalid token');
  await connect(door, { token: 'Bearer ' }).refused('Authentication token required');
});
