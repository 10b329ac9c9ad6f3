// What the door bears: sessions that never say who they are, exact sizes, a registry that goes in the middle of a CONNECT, and
// a process with few file descriptors, or without any.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import net from 'node:net';
import { connect, connected, connectPacket, eventually, exchange, parseMetrics, pause, Polling, RawSocket, someone, test, token, within } from './harness.mjs';

const metric = async (node, name, labels) => parseMetrics((await node.api.request('GET', '/metrics')).text).value(name, labels);

test('sessions that send no CONNECT make room for newer ones, are reclaimed in time, and keep nobody out', { ms: 120000 }, async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__HANDSHAKES: '100', SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '5s' } });
  const before = await connected(door, { user: someone('before'), reconnection: false });
  const sessions = [];
  const sockets = [];
  for (let round = 0; round < 10; round += 1) {
    const [opened, raws] = await Promise.all([
      Promise.all(Array.from({ length: 40 }, () => Polling.open(door.url))),
      Promise.all(Array.from({ length: 20 }, () => new RawSocket(door.url).open())),
    ]);
    sessions.push(...opened);
    sockets.push(...raws);
    // Half an upgrade: the head of the request does not end.
    for (let i = 0; i < 20; i += 1) {
      const half = net.connect(door.port, '127.0.0.1');
      half.on('error', () => {});
      half.write('GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: webso');
    }
    const user = someone('legit');
    const client = await connected(door, { user, transports: [round % 2 ? 'websocket' : 'polling'], reconnection: false });
    await door.api.send(user, 'hello', round);
    await client.wait('hello');
  }
  assert.ok((await metric(door, 'switchboard_connect_errors_total', { reason: 'displaced' })) >= 400, 'expected those beyond the bound to be displaced');
  assert.equal((await sessions[0].post(connectPacket({ token: token(someone()) }))).status, 400, 'expected the oldest session to be gone');
  await within(20000, 'every WebSocket without CONNECT is closed', Promise.all(sockets.map((raw) => raw.closed)));
  await eventually('the last polling session is gone too', async () => {
    assert.equal((await sessions.at(-1).post('3')).status, 400);
  }, { ms: 20000 });
  assert.equal(before.count('disconnect'), 0);
});

for (const kind of ['raw', 'stock']) {
  test(`a registry that hangs while a second namespace is joined leaves the first alone, and lets the second in later (${kind} client)`, async ({ node, redis }) => {
    const store = await redis();
    const door = await node({ redis: store });
    const user = someone('both');
    let first;
    let ready;
    if (kind === 'raw') {
      first = new RawSocket(door.url);
      await first.connect({ token: token(user) });
    } else {
      first = await connected(door, { user });
    }
    store.server.signal('SIGSTOP');
    try {
      if (kind === 'raw') {
        first.ws.send('40/public,');
        ready = first.until(/^42\/public,\["ready"/, { ms: 30000 });
      } else {
        ready = new Promise((resolve, reject) => {
          first.socket.io.socket('/public', {}).on('ready', resolve).on('connect_error', reject).connect();
        });
      }
      ready.catch(() => {});
      // Until the node knows that the registry is away: the call that was under way has failed by then.
      await eventually('the node is not ready', async () => (await door.api.request('GET', '/readyz', { key: null })).status === 503, { ms: 20000 });
      await eventually('what was asked of the registry has failed', async () => (await metric(door, 'switchboard_registry_errors_total', { operation: 'assert' })) > 0, { ms: 20000 });
    } finally {
      store.server.signal('SIGCONT');
    }
    await within(30000, 'the second namespace is joined', ready);
    if (kind === 'raw') assert.equal(first.code, undefined, 'expected the WebSocket to be open');
    else assert.deepEqual([first.count('ready'), first.count('disconnect')], [1, 0], first.history().slice(-300));
    await eventually('both are listed', async () => {
      assert.equal((await door.api.user(user)).connections.length + Number(kind === 'raw'), kind === 'raw' ? 2 : 1);
    }, { ms: 15000 });
  });
}

test('limits.max_payload is exact: a message of that size passes, one byte more does not (websocket, POST)', async ({ node }) => {
  const size = 10_000;
  const door = await node({ env: { SWITCHBOARD_LIMITS__MAX_PAYLOAD: '10KB' } });
  const event = (bytes) => {
    const [head, tail] = ['427["devices","', '"]'];
    return `${head}${'x'.repeat(bytes - head.length - tail.length)}${tail}`;
  };
  assert.equal(event(size).length, size);

  const raw = new RawSocket(door.url);
  await raw.connect({ token: token(someone()) });
  raw.ws.send(event(size));
  await raw.until(/^437\[\{/);
  raw.ws.send(event(size + 1));
  await within(10000, 'one byte more ends the connection', raw.closed);
  assert.equal(raw.packets.filter((packet) => packet.startsWith('437')).length, 1);

  const session = await Polling.open(door.url);
  await session.connect({ token: token(someone()) });
  assert.equal((await session.post(event(size))).status, 200);
  await session.until(/^437\[\{/);
  // Two packets are one body.
  const halves = [event(size / 2), event(size / 2 - 1)];
  assert.equal((await session.post(...halves)).status, 200, 'a body of exactly that size');
  assert.equal((await session.post(event(size + 1))).status, 413);
  await session.refused();
});

test('limits.max_payload counts bytes, not characters', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__MAX_PAYLOAD: '10KB' } });
  const text = (bytes) => `427["devices","${'€'.repeat(3320)}${'x'.repeat(bytes - 3320 * 3 - 17)}"]`;
  for (const [bytes, passes] of [[10_000, true], [10_001, false]]) {
    assert.equal(Buffer.byteLength(text(bytes)), bytes);
    const session = await Polling.open(door.url);
    await session.connect({ token: token(someone()) });
    assert.equal((await session.post(text(bytes))).status, passes ? 200 : 413);
    const raw = new RawSocket(door.url);
    await raw.connect({ token: token(someone()) });
    raw.ws.send(text(bytes));
    if (passes) await raw.until(/^437\[\{/);
    else await within(10000, 'the connection ends', raw.closed);
  }
});

const canLimit = () => {
  try {
    execFileSync('prlimit', ['--version']);
    return existsSync('/proc/self/fd');
  } catch {
    return false;
  }
};

test('a node without file descriptors keeps whom it has, does not spin, and takes others when it can', { ms: 90000, skip: !canLimit() && 'needs prlimit and /proc' }, async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '60s' } });
  const held = await connected(door, { user: someone('held'), reconnection: false });
  const open = () => readdirSync(`/proc/${door.pid}/fd`).length;
  const limit = open() + 10;
  execFileSync('prlimit', ['--pid', String(door.pid), `--nofile=${limit}:`]);
  const crowd = Array.from({ length: 60 }, () => net.connect(door.port, '127.0.0.1').on('error', () => {}));
  await door.line(/can't accept a connection/);
  const cpu = () => {
    const fields = readFileSync(`/proc/${door.pid}/stat`, 'utf8').split(') ')[1].split(' ');
    return Number(fields[11]) + Number(fields[12]);
  };
  const [ticks, lines] = [cpu(), door.lines.length];
  const asked = Date.now();
  while (Date.now() - asked < 3000) {
    await held.granted('devices');
    await pause(50);
  }
  // Each turn of the accept loop that fails is a line; a loop without a pause has tens of thousands.
  assert.ok(door.lines.length - lines < 300, `${door.lines.length - lines} lines in 3 s`);
  assert.ok(cpu() - ticks < 400, `${cpu() - ticks} ticks of 10 ms in 3 s`);
  for (const socket of crowd) socket.destroy();
  const user = someone('later');
  const later = connect(door, { user, reconnectionDelay: 100, reconnectionDelayMax: 500 });
  await later.ready({ ms: 30000 });
  assert.equal((await exchange(door.url, 'GET', '/healthz')).status, 200);
  assert.equal(held.count('disconnect'), 0);
});

test('a node with few file descriptors turns newcomers away in time: /healthz answers, Redis is found again, who is there stays', { ms: 120000, skip: !canLimit() && 'needs prlimit and /proc' }, async ({ node, redis }) => {
  const store = await redis();
  const door = await node({ redis: store, internal: true, files: 100, env: { SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '60s' } });
  const limit = await metric(door, 'switchboard_connections_limit');
  assert.ok(limit >= 16 && limit < 64, `${limit}`);
  const held = await connected(door, { user: someone('held'), transports: ['websocket'], reconnection: false });
  // More than there are descriptors, half of them idle: all that a stranger can do.
  const crowd = Array.from({ length: 200 }, (_, i) => {
    const socket = net.connect(door.port, '127.0.0.1').on('error', () => {}).resume();
    if (i % 2) socket.write('GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\n');
    return socket;
  });
  try {
    await eventually('a newcomer is refused', async () => {
      const { status } = await exchange(door.url, 'GET', '/socket.io/?EIO=4&transport=polling').catch((error) => ({ status: error.code }));
      assert.ok([503, 'ECONNRESET', 'EPIPE'].includes(status), `${status}`);
      assert.ok((await metric(door, 'switchboard_connect_errors_total', { reason: 'full' })) > 0);
    });
    // Links to Redis that break while clients hold all they can get are made anew.
    await store.stop();
    await eventually('it says that Redis is away', async () => assert.equal((await door.api.request('GET', '/readyz', { key: null })).status, 503), { ms: 20000 });
    await store.start();
    await eventually('it is ready again', async () => assert.equal((await door.api.request('GET', '/readyz', { key: null })).status, 200), { ms: 30000 });
    assert.equal((await exchange(door.internalUrl, 'GET', '/healthz')).status, 200);
    await eventually('who is there is served', () => held.granted('devices'), { ms: 15000 });
    assert.ok(!door.lines.some((line) => /can't accept a connection/.test(line)), 'expected descriptors to be left');
  } finally {
    for (const socket of crowd) socket.destroy();
  }
  const later = connect(door, { user: someone('later'), reconnectionDelay: 100, reconnectionDelayMax: 500 });
  await later.ready({ ms: 30000 });
  assert.equal(held.count('disconnect'), 0);
});
