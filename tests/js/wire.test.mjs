// docs/protocol.md: what unusual clients send and get, beside the JavaScript server; and the settings of `transport`.

import assert from 'node:assert/strict';
import net from 'node:net';
import * as msgpack from 'socket.io-msgpack-parser';
import { API_KEY, connect, connected, eventually, exchange, parseMetrics, pause, Polling, RawSocket, someone, test, token, within } from './harness.mjs';

const TRANSPORTS = [['websocket'], ['polling'], ['polling', 'websocket']];

const metric = async (door, name, labels) => parseMetrics((await door.api.request('GET', '/metrics')).text).value(name, labels);

test('a client with the parser of msgpack is told so, once, in its own words', async ({ node }) => {
  const door = await node();
  for (const transports of TRANSPORTS) {
    for (const namespace of ['/', '/public']) {
      // Longer than what is read at once.
      const client = connect(door, { user: someone('packed'), namespace, transports, parser: msgpack.default ?? msgpack, claims: { long: 'x'.repeat(1500) } });
      const [error] = await client.wait('connect_error');
      assert.equal(error.message, 'Unsupported parser', `${transports} ${namespace}`);
      assert.deepEqual(error.data, { code: 'unsupported_parser' });
      assert.equal(client.socket.active, false, 'expected the client not to try again');
    }
  }
  await door.line(/socket\.io-msgpack-parser.*other_parser/);
  await eventually('each is counted', async () => assert.equal(await metric(door, 'switchboard_transports_ended_total', { reason: 'other_parser' }), 6));
});

test('forceBase64: binary goes both ways as text, on either transport and through an upgrade', async ({ node }) => {
  const door = await node();
  for (const transports of TRANSPORTS) {
    const user = someone('text');
    const client = await connected(door, { user, transports, forceBase64: true });
    const upgrades = transports.length > 1;
    if (upgrades) await eventually('it has upgraded', () => assert.equal(client.socket.io.engine.transport.name, 'websocket'));
    for (const size of [0, 3, 700, 50_000]) {
      const answer = await client.socket.timeout(5000).emitWithAck('nothing takes this', Buffer.alloc(size, 7), { within: [Buffer.from('x')] });
      assert.deepEqual(answer, { ok: false, error: 'Unknown event' }, `${transports} ${size}`);
    }
    assert.equal((await client.socket.timeout(5000).emitWithAck('devices')).ok, true, 'expected the events behind it to be read');
  }
});

test('an event whose name is a number is one with that text for a name', async ({ node }) => {
  const door = await node();
  for (const transports of TRANSPORTS) {
    const client = await connected(door, { user: someone('number'), transports });
    for (const name of [1, 0, -1, 1.5, 1e21]) {
      assert.deepEqual(await client.socket.timeout(5000).emitWithAck(name, { a: 1 }), { ok: false, error: 'Unknown event' }, `${transports} ${name}`);
      assert.deepEqual(await client.socket.timeout(5000).emitWithAck(name, Buffer.from('x')), { ok: false, error: 'Unknown event' }, `${transports} ${name}`);
    }
    assert.equal(client.count('disconnect'), 0);
  }
  assert.equal(await metric(door, 'switchboard_events_unknown_total'), 30);
});

/** A client's frame. */
function frame(text, { first = 0x81, mask = [1, 2, 3, 4] } = {}) {
  const payload = Buffer.from(text).map((byte, i) => byte ^ mask[i % 4]);
  assert.ok(payload.length < 126);
  return Buffer.concat([Buffer.from([first, 0x80 | payload.length, ...mask]), payload]);
}

test('wherever its bytes are cut, the first message that has to be made anew is', async ({ node }) => {
  const door = await node();
  const { hostname, port } = new URL(door.url);
  const message = Buffer.concat([frame('42/public,7["x"]'), frame('42/public,8[-1,2]')]);
  const cut = async (at) => {
    const socket = net.connect(port, hostname).setNoDelay(true);
    let text = '';
    socket.setEncoding('latin1').on('data', (data) => { text += data; });
    socket.write('GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n');
    await eventually('the handshake', () => assert.match(text, /pingInterval/), { every: 5 });
    socket.write(frame('40/public,'));
    await eventually('ready', () => assert.match(text, /"ready"/), { every: 5 });
    socket.write(message.subarray(0, at));
    // So that the node reads them apart. Where it does not, it has nothing to put together.
    await pause(20);
    socket.write(message.subarray(at));
    await eventually(`both are answered, cut at ${at}`, () => assert.equal(text.split('Unknown event').length - 1, 2), { every: 5 });
    socket.destroy();
  };
  await Promise.all(Array.from({ length: message.length - 1 }, (_, at) => cut(at + 1)));
});

test('what is no frame of a client\'s is answered with 1002', async ({ node, owned }) => {
  const door = await node();
  for (const bytes of [frame('2', { first: 0xc1 }), frame('2', { first: 0x83 }), frame('', { first: 0x09 }), frame('2', { first: 0x80 }), Buffer.from([0x81, 1, 0x32])]) {
    const raw = new RawSocket(door.url);
    owned(() => raw.ws.terminate());
    await raw.open();
    raw.ws._socket.write(bytes);
    assert.equal(await within(5000, `the transport ends after ${bytes.toString('hex')}`, raw.closed), 1002);
  }
  assert.equal(await metric(door, 'switchboard_transports_ended_total', { reason: 'no_frame' }), 5);
});

test('transport.path: everything is there, and nothing at /socket.io', async ({ node }) => {
  const page = 'https://page.example';
  const door = await node({ env: { SWITCHBOARD_TRANSPORT__PATH: '/live/sockets', SWITCHBOARD_CORS__ALLOWED_ORIGINS: page } });
  for (const transports of TRANSPORTS) await connected(door, { user: someone('elsewhere'), transports, path: '/live/sockets' });
  assert.equal((await exchange(door.url, 'GET', '/socket.io/?EIO=4&transport=polling')).status, 404);
  const answer = await exchange(door.url, 'GET', '/live/sockets/?EIO=4&transport=polling', { headers: { origin: page } });
  assert.equal(answer.status, 200);
  assert.equal(answer.headers['access-control-allow-origin'], page);
  assert.match((await exchange(door.url, 'GET', '/live/sockets/socket.io.js')).text, /transport\.client_bundle/);
  assert.equal((await exchange(door.url, 'GET', '/v1/stats', { headers: { authorization: `Bearer ${API_KEY}` } })).status, 200);
});

test('transport.cookie: each handshake sets one of its own, and nothing else does', async ({ node, owned }) => {
  const door = await node({ env: { SWITCHBOARD_TRANSPORT__COOKIE: 'lb; Path=/; HttpOnly; SameSite=Lax' } });
  const seen = new Set();
  const expected = /^lb=([0-9a-f]{32}); Path=\/; HttpOnly; SameSite=Lax$/;
  for (let i = 0; i < 2; i += 1) {
    const answer = await exchange(door.url, 'GET', '/socket.io/?EIO=4&transport=polling');
    const [cookie] = answer.headers['set-cookie'];
    const { sid } = JSON.parse(answer.text.slice(1));
    assert.ok(!cookie.includes(sid), 'expected the session\'s id, which is a credential, to be in no cookie');
    seen.add(expected.exec(cookie)[1]);
    const raw = new RawSocket(door.url);
    owned(() => raw.ws.terminate());
    raw.ws.on('upgrade', ({ headers }) => seen.add(expected.exec(headers['set-cookie'][0])[1]));
    await raw.open();
    const poll = await exchange(door.url, 'POST', `/socket.io/?EIO=4&transport=polling&sid=${sid}`, { body: '40/public,' });
    assert.equal(poll.headers['set-cookie'], undefined);
  }
  assert.equal(seen.size, 4);
});

test('transport.http_compression: polls of more than 1 KB are compressed for clients that take it', async ({ node }) => {
  for (const on of [true, false]) {
    const door = await node({ env: { SWITCHBOARD_TRANSPORT__HTTP_COMPRESSION: String(on) } });
    const user = someone('large');
    const session = await Polling.open(door.url);
    await session.connect({ token: token(user) });
    const poll = async (data) => {
      await door.api.send(user, 'news', data);
      const { hostname, port } = new URL(door.url);
      return await new Promise((resolve, reject) => {
        const chunks = [];
        const socket = net.connect(port, hostname).on('data', (chunk) => chunks.push(chunk)).on('error', reject).on('end', () => resolve(Buffer.concat(chunks)));
        socket.write(`GET ${session.path} HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n`);
      });
    };
    const small = await poll('x'.repeat(900));
    assert.doesNotMatch(small.toString('latin1'), /content-encoding/i);
    const large = await poll('x'.repeat(5000));
    const head = large.toString('latin1').split('\r\n\r\n')[0];
    assert.equal(/content-encoding: gzip/i.test(head), on, head);
    if (!on) continue;
    assert.ok(large.length < 1000, `expected little, got ${large.length} bytes`);
  }
});
