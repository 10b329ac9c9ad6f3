// What one address may take of a node: connections, sessions a second, guesses at API keys. Behind a trusted proxy each client's
// own address counts, and here the test is the proxy.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import os from 'node:os';
import { connect, connected, eventually, exchange, parseMetrics, Polling, RawSocket, someone, test, token, within } from './harness.mjs';

const HANDSHAKE = '/socket.io/?EIO=4&transport=polling';
const from = (address) => ({ 'x-forwarded-for': address });
const behind = { SWITCHBOARD_TRUSTED_PROXIES: '127.0.0.0/8' };
const metric = async (node, reason) => parseMetrics((await node.api.request('GET', '/metrics')).text).value('switchboard_connect_errors_total', { reason });
const handshake = (door, address) => exchange(door.url, 'GET', HANDSHAKE, { headers: address ? from(address) : {} });

test('limits.connections_per_address: each client behind a trusted proxy has its own, over both transports, and gets it back', async ({ node }) => {
  const door = await node({ env: { ...behind, SWITCHBOARD_LIMITS__CONNECTIONS_PER_ADDRESS: '3' } });
  const one = { headers: from('203.0.113.7') };
  const raw = new RawSocket(door.url, one);
  await raw.connect({ token: token(someone()) });
  await new RawSocket(door.url, one).open();
  const session = await Polling.open(door.url, one);
  const refused = await handshake(door, '203.0.113.7');
  assert.equal(refused.status, 503, 'expected 503 to the fourth session of an address');
  assert.equal(refused.headers['retry-after'], '1');
  const late = new RawSocket(door.url, one);
  await within(5000, 'a WebSocket is refused too', late.closed);
  assert.match(late.error.message, /503/);
  assert.equal(await metric(door, 'address_connections'), 2);

  assert.equal((await handshake(door, '203.0.113.8')).status, 200, 'another address is not meant');
  assert.equal((await handshake(door, '198.51.100.1, 203.0.113.7')).status, 503, 'what a client says of itself does not count');
  // Those who are there go on.
  assert.equal((await session.post('41')).status, 200);
  raw.ws.terminate();
  await eventually('there is room again', async () => assert.equal((await handshake(door, '203.0.113.7')).status, 200));
});

/** An address of this machine that is not loopback: who connects to it from here comes from it. */
const ownAddress = Object.values(os.networkInterfaces()).flat().find(({ family, internal }) => family === 'IPv4' && !internal)?.address;

test('limits.connections_per_address: TCP connections count before they are anything, and are turned away for little', { ms: 60000, skip: !ownAddress && 'needs an address that is not loopback' }, async ({ node }) => {
  const door = await node({ listen: `${ownAddress}:0`, internal: true, env: { SWITCHBOARD_LIMITS__CONNECTIONS_PER_ADDRESS: '5', SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '60s' } });
  const open = async () => {
    const socket = net.connect(door.port, ownAddress);
    await once(socket, 'connect');
    return socket.on('error', () => {});
  };
  const idle = await Promise.all(Array.from({ length: 5 }, open));
  const refused = await handshake(door);
  assert.equal(refused.status, 503);
  assert.equal(refused.headers['retry-after'], '1');
  const client = connect(door, { user: someone('waits'), reconnectionDelay: 100, reconnectionDelayMax: 300 });
  await client.wait('connect_error');
  assert.equal(client.socket.active, true);
  // Many more, which send nothing: they are gone soon, and hold nothing until then.
  const crowd = await Promise.all(Array.from({ length: 100 }, open));
  await within(10000, 'all that are too many are closed', Promise.all(crowd.map((socket) => socket.closed || once(socket.resume(), 'close'))));
  assert.ok((await metric(door, 'address_connections')) >= 102);
  await door.line(/an address is over its limit.*trusted_proxies/);
  for (const socket of idle) socket.destroy();
  await client.ready();
});

test('limits of an address: an IPv6 client is its /64', async ({ node }) => {
  const door = await node({ env: { ...behind, SWITCHBOARD_LIMITS__CONNECTIONS_PER_ADDRESS: '2' } });
  for (const address of ['2001:db8:1:2::1', '2001:db8:1:2:ffff::2']) assert.equal((await handshake(door, address)).status, 200);
  assert.equal((await handshake(door, '2001:db8:1:2::3')).status, 503);
  assert.equal((await handshake(door, '2001:db8:1:3::1')).status, 200);
});

test('limits.handshakes_per_second_per_address: beyond it 503, for that address alone; a reload changes it', async ({ node }) => {
  const config = (rate) => `trusted_proxies = "127.0.0.0/8"\n[limits]\nhandshakes_per_second_per_address = ${rate}\n`;
  const door = await node({ config: config(5) });
  const statuses = async (address, times) => (await Promise.all(Array.from({ length: times }, () => handshake(door, address)))).map(({ status }) => status);
  const many = await statuses('203.0.113.7', 60);
  const taken = many.filter((status) => status === 200).length;
  assert.ok(taken >= 5 && taken < 40, `${taken} of 60 taken`);
  assert.equal(many.filter((status) => status === 503).length, 60 - taken);
  assert.equal(await metric(door, 'address_rate'), 60 - taken);
  assert.deepEqual(await statuses('203.0.113.8', 2), [200, 200]);
  await eventually('the address has its rate again', async () => assert.equal((await handshake(door, '203.0.113.7')).status, 200));
  door.reload(config(0));
  await door.line(/configuration reloaded/);
  assert.deepEqual([...new Set(await statuses('203.0.113.7', 60))], [200]);
});

test('limits of an address: loopback has none, and neither has a trusted proxy that names nobody', async ({ node }) => {
  const few = { SWITCHBOARD_LIMITS__CONNECTIONS_PER_ADDRESS: '2', SWITCHBOARD_LIMITS__HANDSHAKES_PER_SECOND_PER_ADDRESS: '1' };
  for (const env of [few, { ...few, ...behind }]) {
    const door = await node({ env });
    for (let i = 0; i < 8; i += 1) assert.equal((await handshake(door)).status, 200);
    // From a peer that is no trusted proxy the header is its own invention; from one that is, loopback is loopback.
    for (let i = 0; i < 8; i += 1) assert.equal((await handshake(door, '127.0.0.9')).status, 200);
  }
});

test('what pages call, and the pages of the API, count as handshakes of their address', async ({ node }) => {
  const door = await node({ env: { ...behind, SWITCHBOARD_LIMITS__HANDSHAKES_PER_SECOND_PER_ADDRESS: '5' } });
  for (const [method, path, address] of [
    ['POST', '/api/refresh-token', '203.0.113.7'],
    ['POST', '/api/logout', '203.0.113.9'],
    ['GET', '/v1/docs/index.css', '203.0.113.10'],
    ['GET', '/v1/openapi.json', '203.0.113.11'],
  ]) {
    const call = (from) => exchange(door.url, method, path, { headers: { 'x-forwarded-for': from, ...(method === 'POST' && { 'content-length': 0 }) } });
    const answers = await Promise.all(Array.from({ length: 40 }, () => call(address)));
    const late = answers.filter(({ status }) => status === 429);
    assert.ok(late.length > 0 && late.length <= 35, `${late.length} of 40 refused`);
    assert.equal(late[0].headers['retry-after'], '1');
    assert.equal(late[0].json.code, 'rate_limited');
    assert.notEqual((await call('203.0.113.8')).status, 429);
  }
});

const KEY_CALL = '/v1/stats';
const guess = (door, address, key) => exchange(door.url, 'GET', KEY_CALL, { headers: { ...(address && from(address)), authorization: `Bearer ${key}` } });

test('who guesses API keys is soon not listened to any more; a right key is, from the same address too', { ms: 60000 }, async ({ node }) => {
  const door = await node({ env: behind });
  const { key } = door.api;
  for (let i = 0; i < 120; i += 1) assert.equal((await guess(door, '203.0.113.8', key)).status, 200);
  const statuses = [];
  for (let i = 0; i < 400; i += 1) statuses.push((await guess(door, '203.0.113.7', `guess-${i}`)).status);
  assert.deepEqual(statuses.slice(0, 50), Array(50).fill(401));
  const told = statuses.filter((status) => status === 401).length;
  assert.ok(told < 250, `${told} of 400 guesses were looked at`);
  // A backend that shares the address with a guesser, or with one of its own that has an old key, is not kept out.
  for (let i = 0; i < 50; i += 1) {
    await guess(door, '203.0.113.7', 'wrong');
    assert.equal((await guess(door, '203.0.113.7', key)).status, 200);
  }
  const admin = token(someone('boss'), { role: 'admin' });
  assert.equal((await guess(door, '203.0.113.8', admin)).status, 200);
  await eventually('an administrator there may try again', async () => assert.equal((await guess(door, '203.0.113.7', admin)).status, 200));
});

test('a user\'s token opens nothing of the API, fills no audit, and is not looked at for ever', { ms: 60000 }, async ({ node }) => {
  const door = await node({ env: behind });
  const key = token(someone('user'));
  const from = door.lines.length;
  const statuses = [];
  for (let i = 0; i < 1000; i += 1) {
    const answer = await exchange(door.url, 'DELETE', `/v1/users/victim-${i}/ban`, { headers: { 'x-forwarded-for': '203.0.113.7', authorization: `Bearer ${key}` } });
    statuses.push(answer.status);
  }
  assert.deepEqual(statuses.slice(0, 50), Array(50).fill(403));
  const late = statuses.filter((status) => status === 429).length;
  assert.ok(late > 300, `${late} of 1000 calls were refused unseen`);
  assert.equal(late + statuses.filter((status) => status === 403).length, 1000);
  await door.api.request('POST', '/v1/users/last/disconnect', { json: {} });
  await door.line(/whom="last"/);
  assert.equal(door.lines.slice(from).filter((line) => / audit: /.test(line)).length, 1);
});

test('loopback may fail as often as it likes: it is the backends\' own', async ({ node }) => {
  const door = await node();
  const statuses = (await Promise.all(Array.from({ length: 200 }, (_, i) => guess(door, undefined, `guess-${i}`)))).map(({ status }) => status);
  assert.deepEqual([...new Set(statuses)], [401]);
  assert.equal((await guess(door, undefined, door.api.key)).status, 200);
});

test('of a handshake only what may let somebody in is kept: a guest with large headers costs what a guest costs', { ms: 120000 }, async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '60s' } });
  const resident = async () => parseMetrics((await door.api.request('GET', '/metrics')).text).value('process_resident_memory_bytes');
  /** Bytes that each of some guests takes. */
  const guests = async (count, headers) => {
    const before = await resident();
    const raws = await Promise.all(Array.from({ length: count }, () => new RawSocket(door.url, { headers }).open()));
    for (const raw of raws) raw.ws.send('40/public,');
    await Promise.all(raws.map((raw) => raw.until(/^42\/public,\["ready"/)));
    return ((await resident()) - before) / count;
  };
  const large = { cookie: `junk=${'x'.repeat(14_000)}` };
  const basic = { authorization: `Basic ${'x'.repeat(14_000)}` };
  await guests(200, large);
  const [plain, laden, other] = [await guests(400, {}), await guests(400, large), await guests(400, basic)];
  assert.ok(laden < plain + 8_000, `${Math.round(laden)} bytes a guest with cookies, ${Math.round(plain)} without`);
  assert.ok(other < plain + 8_000, `${Math.round(other)} bytes a guest with another scheme, ${Math.round(plain)} without`);
});

test('a token in Authorization that is longer than any is refused, not left out', async ({ node }) => {
  const door = await node();
  for (const value of ['x'.repeat(14_000), `${token(someone())}${'x'.repeat(10_000)}`]) {
    await connect(door, { extraHeaders: { authorization: `Bearer ${value}` }, reconnection: false }).refused('Invalid token');
  }
  await connect(door, { extraHeaders: { authorization: `Basic ${'x'.repeat(14_000)}` }, reconnection: false }).refused('Authentication token required');
});

test('a request head may have 16 KB, as on Node.js', async ({ node }) => {
  const door = await node();
  const answer = (bytes) => exchange(door.url, 'GET', HANDSHAKE, { headers: { cookie: `junk=${'x'.repeat(bytes)}` } });
  assert.equal((await answer(14_000)).status, 200);
  assert.equal((await answer(20_000)).status, 431);
});

test('an idle connection and half a head end, whatever the other does', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '1s' } });
  const client = await connected(door, { user: someone('there'), reconnection: false });
  const sockets = Array.from({ length: 50 }, (_, i) => {
    const socket = net.connect(door.port, '127.0.0.1').on('error', () => {});
    if (i % 2) socket.write('GET / HTTP/1.1\r\nHost: x\r\n');
    return new Promise((resolve) => socket.on('close', resolve).resume());
  });
  await within(10000, 'all are closed', Promise.all(sockets));
  assert.equal(client.count('disconnect'), 0);
});
