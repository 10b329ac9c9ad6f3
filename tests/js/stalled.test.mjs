// A client that reads nothing cannot stay: not when it is told to go, and not by filling the node's memory.

import assert from 'node:assert/strict';
import { connected, eventually, onBothRegistries, parseMetrics, Polling, RawSocket, someone, test, token, within } from './harness.mjs';

// On loopback the kernel takes about 4 MB before a writer to somebody who reads nothing has to wait; this is three times that.
const CHUNK = 'x'.repeat(400_000);
const CHUNKS = 30;

/** A WebSocket client that got `ready` and has read nothing since, with a send path that is full. */
async function stalled(world, user, { chunks = CHUNKS } = {}) {
  const raw = new RawSocket(world.door.url);
  const { connectionId } = await raw.connect({ token: token(user) });
  raw.stall();
  for (let i = 0; i < chunks; i += 1) await world.api.send(user, 'fill', CHUNK);
  return { raw, id: connectionId };
}

// Room for all of it, so that the call ends the connection and not the limit.
const roomy = { SWITCHBOARD_LIMITS__SEND_QUEUE_BYTES: '64MB', SWITCHBOARD_LIMITS__WRITE_DEADLINE: '120s' };

onBothRegistries((world) => {
  test('a WebSocket client that reads nothing is disconnected like any other, within a second', async ({ note }) => {
    const user = someone('stalled');
    const { raw, id } = await stalled(world, user);
    assert.deepEqual((await world.api.user(user)).connections.map((one) => one.id), [id], 'expected the stalled connection to be there still');
    const started = Date.now();
    const answer = await world.api.disconnect(user);
    const took = Date.now() - started;
    note(`disconnect answered after ${took} ms`);
    assert.deepEqual(answer, { disconnected: 1, nodes: 1, remaining: [] });
    assert.deepEqual((await world.api.user(user)).connections, [], 'expected it to be out of the registry once disconnect has answered');
    assert.ok(took < 1000, `expected the answer within a second, it took ${took} ms`);
    await raw.seesClose();
  });

  test('the other devices of the same user hear of it at once', async () => {
    const user = someone('stalled');
    const { raw } = await stalled(world, user);
    const healthy = await connected(world.door, { user });
    const answer = await world.api.disconnect(user);
    assert.deepEqual(answer, { disconnected: 2, nodes: 1, remaining: [] });
    await healthy.kicked(4500);
    await raw.seesClose();
  });

  test('a stalled device does not hold up events to the others', async () => {
    const user = someone('stalled');
    await stalled(world, user);
    const healthy = await connected(world.door, { user });
    const started = Date.now();
    await world.api.send(user, 'prompt', 1);
    await healthy.wait('prompt', { ms: 5000 });
    assert.ok(Date.now() - started < 5000);
    assert.equal((await world.api.disconnect(user)).disconnected, 2);
  });

  test('a WebSocket client that stops reading after a DELETE of its connection is closed too', async () => {
    const user = someone('stalled');
    const { raw, id } = await stalled(world, user);
    assert.equal((await world.api.ok('DELETE', `/v1/connections/${id}`)).disconnected, 1);
    assert.equal((await world.api.user(user)).online, false);
    await raw.seesClose();
  });

  test('reconnect: true closes a client that reads nothing as well', async () => {
    const user = someone('stalled');
    const { raw } = await stalled(world, user);
    assert.deepEqual(await world.api.disconnect(user, { code: 4003, reconnect: true }), { disconnected: 1, nodes: 1, remaining: [] });
    await raw.seesClose();
  });

  test('a polling client that does not poll is disconnected like any other, within a second', async () => {
    const user = someone('unpolled');
    const session = await Polling.open(world.door.url);
    await session.connect({ token: token(user) });
    for (let i = 0; i < 20; i += 1) await world.api.send(user, 'fill', CHUNK);
    const started = Date.now();
    const answer = await world.api.disconnect(user);
    const took = Date.now() - started;
    assert.deepEqual(answer, { disconnected: 1, nodes: 1, remaining: [] });
    assert.ok(took < 1000, `expected the answer within a second, it took ${took} ms`);
    assert.equal((await world.api.user(user)).online, false);
    const { status } = await session.post('42["x"]');
    assert.equal(status, 400, 'expected the session to be closed when disconnect has answered');
    await session.refused();
  });

  test('a client in the middle of a message is told and half-closed, not reset', async () => {
    const user = someone('halfway');
    const raw = new RawSocket(world.door.url);
    await raw.connect({ token: token(user) });
    const stream = raw.ws._socket;
    const how = new Promise((resolve) => stream.once('end', () => resolve('end')).once('error', (error) => resolve(error.code)));
    // A text frame of 4,096 bytes, of which six come.
    stream.write(Buffer.from([0x81, 0xfe, 0x10, 0x00, 1, 2, 3, 4, 5, 6]));
    assert.deepEqual((await world.api.disconnect(user)).remaining, []);
    assert.equal(await within(5000, 'the stream ends', how), 'end');
    assert.equal(raw.packets.at(-1), '41');
  });

  test('300 events to a client that reads nothing do not keep it from being disconnected', async () => {
    const user = someone('many');
    const raw = new RawSocket(world.door.url);
    await raw.connect({ token: token(user) });
    raw.stall();
    const messages = Array.from({ length: 300 }, (_, i) => ({ user, event: 'fill', data: i % 20 ? i : CHUNK.slice(0, 40_000) }));
    for (let i = 0; i < 20; i += 1) await world.api.ok('POST', '/v1/events', { messages });
    const started = Date.now();
    const answer = await world.api.disconnect(user);
    assert.deepEqual(answer.remaining, [], JSON.stringify(answer));
    assert.ok(Date.now() - started < 1000, 'expected the answer within a second');
    assert.equal((await world.api.user(user)).online, false);
    await raw.seesClose();
  });
}, { env: roomy });

onBothRegistries((world) => {
  test('more unsent than limits.send_queue_bytes: it ends with 4002 by itself, and nothing is lost silently', async () => {
    const user = someone('slow');
    const neighbour = await connected(world.door, { user: someone('neighbour') });
    const { raw } = await stalled(world, user);
    await eventually('a client with more than 1 MB unsent is gone', async () => (await world.api.user(user)).online === false);
    await raw.seesClose();
    const { text } = await world.door.api.request('GET', '/metrics');
    assert.ok(parseMetrics(text).value('switchboard_disconnects_total', { reason: 'slow_consumer' }) >= 1 || /switchboard_disconnects_total\{[^}]*slow[^}]*\} [1-9]/i.test(text),
      'expected switchboard_disconnects_total to count a slow consumer');
    assert.equal(neighbour.socket.connected, true, 'expected a healthy neighbour to be untouched');
  });

  test('a slow consumer that reads again may have seen 4002, and can come back', async () => {
    const user = someone('slow');
    await stalled(world, user);
    await eventually('a client with more than 1 MB unsent is gone', async () => (await world.api.user(user)).online === false);
    await connected(world.door, { user });
  });
});

test('an unsent byte older than limits.write_deadline ends the connection', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__SEND_QUEUE_BYTES: '64MB', SWITCHBOARD_LIMITS__WRITE_DEADLINE: '1s' } });
  const user = someone('late');
  const { raw } = await stalled({ door, api: door.api }, user);
  await eventually('a client that read nothing for longer than limits.write_deadline is gone', async () => (await door.api.user(user)).online === false);
  await raw.seesClose();
});

test('what a slow consumer was to get and did not is counted, message by message', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__SEND_QUEUE_BYTES: '64MB', SWITCHBOARD_LIMITS__WRITE_DEADLINE: '8s' } });
  const user = someone('counted');
  const { raw } = await stalled({ door, api: door.api }, user);
  // Small ones behind the large ones.
  const messages = Array.from({ length: 100 }, (_, i) => ({ user, event: 'small', data: i }));
  const { results } = await door.api.ok('POST', '/v1/events', { messages });
  const small = results.reduce((sum, { connections }) => sum + connections, 0);
  assert.equal(small, 100, 'expected it to be there still');
  await eventually('it is gone', async () => (await door.api.user(user)).online === false, { ms: 20000 });
  const { value } = parseMetrics((await door.api.request('GET', '/metrics')).text);
  const dropped = value('switchboard_messages_dropped_total', { reason: 'slow_consumer' });
  await raw.seesClose();
  const got = raw.packets.filter((packet) => /^42\["(fill|small)"/.test(packet)).length;
  // Of what the kernel holds, up to some 6 MB, nobody here can tell.
  assert.ok(dropped > small + CHUNKS / 3 && dropped + got <= small + CHUNKS, `${CHUNKS} large and ${small} small ones, ${got} arrived, ${dropped} counted as dropped`);
});

test('a client that reads slowly but steadily within the deadline stays', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__SEND_QUEUE_BYTES: '64MB', SWITCHBOARD_LIMITS__WRITE_DEADLINE: '20s' } });
  const user = someone('steady');
  const { raw } = await stalled({ door, api: door.api }, user, { chunks: 20 });
  raw.ws.resume();
  await eventually('a client that reads again gets all it was sent', async () => {
    assert.equal(raw.packets.filter((packet) => packet.startsWith('42["fill"')).length, 20);
  }, { ms: 15000 });
  assert.equal((await door.api.user(user)).online, true);
});

test('a client that reads nothing but answers pings ends with 4002 when what it was sent is older than limits.write_deadline', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__WRITE_DEADLINE: '2s', SWITCHBOARD_PING__INTERVAL: '1s', SWITCHBOARD_PING__TIMEOUT: '30s' } });
  const user = someone('blind');
  const neighbour = await connected(door, { user: someone('neighbour'), reconnection: false });
  const raw = new RawSocket(door.url);
  await raw.connect({ token: token(user) });
  raw.stall();
  const pongs = setInterval(() => raw.ws.readyState === raw.ws.OPEN && raw.ws.send('3'), 500);
  try {
    // More than the peer's kernel takes for it, less than this one's would keep.
    for (let i = 0; i < 3; i += 1) await door.api.send(user, 'fill', CHUNK);
    await eventually('it is gone', async () => (await door.api.user(user)).online === false, { ms: 20000 });
  } finally {
    clearInterval(pongs);
  }
  const { value } = parseMetrics((await door.api.request('GET', '/metrics')).text);
  assert.equal(value('switchboard_disconnects_total', { reason: 'slow_consumer' }), 1);
  await raw.seesClose();
  assert.equal(neighbour.count('disconnect'), 0);
});

for (const [what, settings] of [
  ['sent more than limits.send_queue_bytes', { SWITCHBOARD_LIMITS__WRITE_DEADLINE: '60s' }],
  ['asking nothing for longer than limits.write_deadline', { SWITCHBOARD_LIMITS__WRITE_DEADLINE: '2s' }],
]) {
  test(`a polling client that fetches nothing ends with 4002: ${what}`, async ({ node }) => {
    const door = await node({ env: settings });
    const neighbour = await connected(door, { user: someone('neighbour'), reconnection: false });
    const user = someone('unfetched');
    const session = await Polling.open(door.url);
    await session.connect({ token: token(user) });
    const many = what.startsWith('sent') ? 6 : 1;
    let handedOver = 0;
    for (let i = 0; i < many; i += 1) handedOver += (await door.api.send(user, 'fill', CHUNK)).connections;
    await eventually('it is gone', async () => (await door.api.user(user)).online === false, { ms: 20000 });
    const { value } = parseMetrics((await door.api.request('GET', '/metrics')).text);
    assert.equal(value('switchboard_disconnects_total', { reason: 'slow_consumer' }), 1);
    assert.equal(value('switchboard_messages_dropped_total', { reason: 'slow_consumer' }), handedOver, 'expected each message that it did not fetch to be counted');
    await session.refused();
    assert.equal(neighbour.count('disconnect'), 0);
  });
}

test('what others are sent arrives in order and whole while twenty clients stall', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__WRITE_DEADLINE: '3s' } });
  const healthy = await Promise.all(['websocket', 'polling'].map(async (transport) => {
    const user = someone('healthy');
    return Object.assign(await connected(door, { user, transports: [transport], reconnection: false }), { user });
  }));
  const stuck = await Promise.all(Array.from({ length: 20 }, async () => {
    const user = someone('stuck');
    const raw = new RawSocket(door.url);
    await raw.connect({ token: token(user) });
    raw.stall();
    return user;
  }));
  const count = 200;
  for (let i = 0; i < count; i += 1) {
    const messages = healthy.map((one) => ({ user: one.user, event: 'n', data: i }));
    if (i % 10 === 0) messages.push(...[...stuck, ...stuck].slice(i / 10, i / 10 + 8).map((user) => ({ user, event: 'fill', data: CHUNK.slice(0, 150_000) })));
    await door.api.ok('POST', '/v1/events', { messages });
  }
  for (const one of healthy) {
    await one.wait('n', { nth: count });
    assert.deepEqual(one.seen.filter((entry) => entry.name === 'n').map((entry) => entry.args[0]), Array.from({ length: count }, (_, i) => i));
    assert.equal(one.count('disconnect'), 0);
  }
  await eventually('those that stall are gone', async () => {
    const { users } = await door.api.ok('POST', '/v1/presence', { users: stuck });
    return stuck.every((user) => !users[user].online);
  }, { ms: 20000 });
});
