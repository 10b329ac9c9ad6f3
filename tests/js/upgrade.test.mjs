// Contract 2: a session that polls may try a WebSocket. Where that does not work it goes on polling; where it does, nothing is
// lost, doubled or out of order.

import assert from 'node:assert/strict';
import net from 'node:net';
import { connect, connected, eventually, exchange, Polling, RawSocket, someone, test, token, within } from './harness.mjs';

/** The frame of a short text, without the mask that a client's has to have. */
const frame = (text) => Buffer.concat([Buffer.from([0x81, text.length]), Buffer.from(text)]);

/**
 * Ways of a proxy to spoil a WebSocket. Each gets the two streams of a connection that has been upgraded, and what comes
 * from the node (`down`) or from the client (`up`) after that; what it returns is passed on.
 */
const SPOILERS = {
  'swallows every frame': { up: () => null, down: () => null },
  'swallows what the client sends': { up: () => null },
  'swallows what the node sends': { down: () => null },
  'cuts after the 101': { start: (cut) => cut() },
  'cuts at the probe': { up: (_, cut) => cut() },
  'cuts at the answer to the probe': { down: (data, cut) => (data.includes('3probe') ? cut() : data) },
};

/** A TCP proxy before a node that lets HTTP through and spoils WebSockets; counts them. */
async function spoiling(node, { start, up = (data) => data, down = (data) => data }, owned) {
  const proxy = { upgrades: 0 };
  const pairs = new Set();
  const server = net.createServer((near) => {
    const far = net.connect(node.port, '127.0.0.1');
    let upgraded = false;
    const cut = () => {
      near.destroy();
      far.destroy();
      return null;
    };
    pairs.add(cut);
    near.on('data', (data) => {
      const passed = upgraded ? up(data, cut) : data;
      if (passed) far.write(passed);
    });
    far.on('data', (data) => {
      if (upgraded) {
        const passed = down(data, cut);
        if (passed) near.write(passed);
      } else {
        near.write(data);
        if (data.toString('latin1').startsWith('HTTP/1.1 101')) {
          upgraded = true;
          proxy.upgrades += 1;
          start?.(cut);
        }
      }
    });
    for (const socket of [near, far]) socket.on('error', cut).on('close', cut).setNoDelay(true);
  });
  await new Promise((resolve, reject) => server.on('error', reject).listen(0, '127.0.0.1', resolve));
  owned(() => {
    for (const cut of pairs) cut();
    return new Promise((resolve) => server.close(resolve));
  });
  proxy.url = `http://127.0.0.1:${server.address().port}`;
  return proxy;
}

for (const [what, spoiler] of Object.entries(SPOILERS)) {
  test(`behind a proxy that ${what}, the stock client goes on polling and is never cut`, async ({ node, owned }) => {
    const door = await node({ env: { SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '2s', SWITCHBOARD_LIMITS__EVENTS_BURST: '100000', SWITCHBOARD_PING__INTERVAL: '1s', SWITCHBOARD_PING__TIMEOUT: '5s' } });
    const proxy = await spoiling(door, spoiler, owned);
    const user = someone('proxied');
    const client = connect(proxy.url, { user, transports: ['polling', 'websocket'] });
    await client.ready();
    await eventually('it has tried the WebSocket', async () => proxy.upgrades > 0);
    // Longer than a handshake may take, after which the try is over on both sides.
    const until = Date.now() + 3500;
    let sent = 0;
    do {
      await door.api.send(user, 'n', sent);
      sent += 1;
      await client.wait('n', { nth: sent });
      assert.equal((await client.granted('devices')).connections[0].transport, 'polling');
    } while (Date.now() < until);
    assert.deepEqual(client.seen.filter((entry) => entry.name === 'n').map((entry) => entry.args[0]), Array.from({ length: sent }, (_, i) => i));
    assert.deepEqual([client.count('ready'), client.count('disconnect')], [1, 0], client.history().slice(-300));
    assert.equal((await door.api.disconnect(user)).disconnected, 1);
    await client.kicked(4500);
  });
}

test('a WebSocket that goes after the answer to its probe leaves the session polling, and another may be tried', async ({ node }) => {
  const door = await node();
  const user = someone('again');
  const session = await Polling.open(door.url);
  await session.connect({ token: token(user) });
  /** A WebSocket beside the session, once the node takes one. */
  const beside = () => eventually('the node takes another WebSocket', async () => {
    const raw = new RawSocket(door.url, { sid: session.sid });
    const taken = await new Promise((resolve) => raw.ws.on('open', () => resolve(true)).on('error', () => resolve(false)));
    return taken && raw;
  });
  for (let round = 0; round < 5; round += 1) {
    const raw = await beside();
    raw.ws.send('2probe');
    await raw.until(/^3probe$/);
    const second = new RawSocket(door.url, { sid: session.sid });
    await within(5000, 'a second one beside it is refused', second.closed);
    raw.ws.terminate();
    await door.api.send(user, 'still', round);
    await session.until(new RegExp(`^42\\["still",${round}\\]$`));
  }
  await beside();
  assert.equal((await door.api.user(user)).connections[0]?.transport, 'polling');
});

test('from the probe on a poll that waits comes back with a noop, and after "5" everything comes over the WebSocket', async ({ node }) => {
  const door = await node();
  const user = someone('noop');
  const session = await Polling.open(door.url);
  await session.connect({ token: token(user) });
  const waiting = exchange(door.url, 'GET', session.path);
  const raw = new RawSocket(door.url, { sid: session.sid });
  await new Promise((resolve, reject) => raw.ws.on('open', resolve).on('error', reject));
  raw.ws.send('2probe');
  await raw.until(/^3probe$/);
  let answer = await within(5000, 'the poll comes back', waiting);
  if (answer.text === '2') {
    await session.post('3');
    answer = await within(5000, 'the next poll comes back', exchange(door.url, 'GET', session.path));
  }
  assert.equal(answer.text, '6');
  // Nobody polls now: these wait, and go over the WebSocket first of all.
  await door.api.send(user, 'n', 0);
  await door.api.send(user, 'n', 1);
  raw.ws.send('5');
  raw.ws.send('421["devices"]');
  await raw.until(/^431\[/);
  await door.api.send(user, 'n', 2);
  await raw.until(/^42\["n",2\]$/);
  assert.deepEqual(raw.packets.filter((packet) => packet.startsWith('42["n"')), ['42["n",0]', '42["n",1]', '42["n",2]']);
  assert.equal(raw.packets.filter((packet) => packet === '3probe').length, 1);
  assert.equal((await door.api.user(user)).connections[0].transport, 'websocket');
});

test('more than one poll may carry waits for a client that moves: nothing of it stays behind', async ({ node }) => {
  // A poll carries up to 64 MB, the largest that limits.max_payload may be.
  // A debug build takes seconds for each of them, in which nobody polls and the upgrade waits.
  const patient = { SWITCHBOARD_LIMITS__WRITE_DEADLINE: '60s', SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '60s' };
  const door = await node({ env: { SWITCHBOARD_LIMITS__MAX_PAYLOAD: '64MB', SWITCHBOARD_LIMITS__SEND_QUEUE_BYTES: '200MB', ...patient } });
  const user = someone('backlog');
  const session = await Polling.open(door.url);
  await session.connect({ token: token(user) });
  const raw = new RawSocket(door.url, { sid: session.sid });
  await new Promise((resolve, reject) => raw.ws.on('open', resolve).on('error', reject));
  raw.ws.send('2probe');
  await raw.until(/^3probe$/);
  const count = 3;
  for (let i = 0; i < count; i += 1) await door.api.send(user, 'n', [i, 'x'.repeat(22_000_000)]);
  // One poll takes what fits into it, and has looked at the next.
  await session.until(/^42\["n",/, { ms: 30000 });
  raw.ws.send('5');
  const numbers = (packets) => packets.map((packet) => /^42\["n",\[(\d+),/.exec(packet)?.[1]).filter(Boolean).map(Number);
  await raw.until(new RegExp(`^42\\["n",\\[${count - 1},`), { ms: 30000 });
  const polled = numbers(session.packets);
  assert.ok(polled.length > 0 && polled.length < count, `${polled.length} were polled`);
  assert.deepEqual([...polled, ...numbers(raw.packets)], Array.from({ length: count }, (_, i) => i));
});

test('200 upgrades with traffic both ways: none is lost, doubled or out of order, and nobody reconnects', { ms: 120000 }, async ({ node }) => {
  const env = { SWITCHBOARD_LIMITS__EVENTS_PER_SECOND: '1000', SWITCHBOARD_LIMITS__EVENTS_BURST: '1000' };
  const door = await node({ env });
  const total = 200;
  const one = async (n) => {
    const user = someone('mover');
    const client = connect(door, { user, transports: ['polling', 'websocket'] });
    await client.ready();
    const answers = [];
    let sent = 0;
    const upgraded = () => client.socket.io.engine.transport.name === 'websocket';
    await eventually('the stock client has upgraded', async () => {
      const i = sent;
      sent += 1;
      client.socket.emit('logoutDevice', `none-${i}`, () => answers.push(i));
      assert.equal((await door.api.send(user, 'n', i)).connections, 1);
      return upgraded() && sent >= 10;
    }, { every: n % 3, ms: 60000 });
    await client.wait('n', { nth: sent, ms: 30000 });
    await eventually('all is answered', async () => answers.length === sent, { ms: 30000 });
    const expected = Array.from({ length: sent }, (_, i) => i);
    assert.deepEqual(client.seen.filter((entry) => entry.name === 'n').map((entry) => entry.args[0]), expected);
    assert.deepEqual(answers, expected);
    assert.deepEqual([client.count('ready'), client.count('disconnect')], [1, 0], client.history().slice(-300));
    client.socket.disconnect();
  };
  let next = 0;
  await Promise.all(Array.from({ length: 10 }, async () => {
    while (next < total) {
      next += 1;
      await one(next);
    }
  }));
});

test('a session that is ended while a WebSocket is being tried ends, and the WebSocket with it', async ({ node }) => {
  const door = await node();
  const user = someone('tried');
  const session = await Polling.open(door.url);
  await session.connect({ token: token(user) });
  const raw = new RawSocket(door.url, { sid: session.sid });
  await new Promise((resolve, reject) => raw.ws.on('open', resolve).on('error', reject));
  raw.ws.send('2probe');
  await raw.until(/^3probe$/);
  const poll = session.until(/^41$/);
  assert.deepEqual(await door.api.disconnect(user), { disconnected: 1, nodes: 1, remaining: [] });
  await poll;
  await within(5000, 'the WebSocket is closed', raw.closed);
  await session.refused();
  await connected(door, { user });
});

test('a client that is ended between its last poll and its WebSocket is told there', async ({ node }) => {
  const door = await node();
  for (let round = 0; round < 20; round++) {
    const user = someone('between');
    const session = await Polling.open(door.url);
    await session.connect({ token: token(user) });
    const raw = new RawSocket(door.url, { sid: session.sid });
    await new Promise((resolve, reject) => raw.ws.on('open', resolve).on('error', reject));
    raw.ws.send('2probe');
    await raw.until(/^3probe$/);
    // The noop with which a poll comes back from now on.
    await session.until(/^6$/);
    const ended = door.api.disconnect(user);
    // In every round another moment between the kick and what the client says of its own.
    if (round % 2) await new Promise((resolve) => setTimeout(resolve, 5 * round));
    raw.ws.send('5');
    await raw.until(/^42\["forceDisconnect",/);
    await raw.until(/^41$/);
    assert.deepEqual(await ended, { disconnected: 1, nodes: 1, remaining: [] });
    await within(5000, 'the WebSocket is closed', raw.closed);
  }
});

test('bytes that are no probe end the WebSocket and not the session', async ({ node }) => {
  const door = await node();
  const user = someone('garbage');
  const session = await Polling.open(door.url);
  await session.connect({ token: token(user) });
  for (const bytes of [Buffer.from('garbage, and more of it'), frame('2probe'), Buffer.alloc(3000, 0xff), Buffer.from([0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])]) {
    const raw = new RawSocket(door.url, { sid: session.sid });
    await new Promise((resolve, reject) => raw.ws.on('open', resolve).on('error', reject));
    raw.ws._socket.write(bytes);
    await within(5000, 'the WebSocket is closed', raw.closed);
  }
  await door.api.send(user, 'still', 1);
  await session.until(/^42\["still",1\]$/);
});
