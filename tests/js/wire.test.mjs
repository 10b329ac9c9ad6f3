// docs/protocol.md: what unusual clients send and get, beside the JavaScript server; and the settings of `transport`.

import assert from 'node:assert/strict';
import net from 'node:net';
import { API_KEY, connected, exchange, Polling, RawSocket, someone, test, token } from './harness.mjs';

const TRANSPORTS = [['websocket'], ['polling'], ['polling', 'websocket']];

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
