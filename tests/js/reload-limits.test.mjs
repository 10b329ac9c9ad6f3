// SIGHUP: new limits hold at once, for connections that are open too where that makes sense. What is looked at is the effect.

import assert from 'node:assert/strict';
import { connected, eventually, Polling, RawSocket, someone, test, token, within } from './harness.mjs';

/** A file with limits, and with what stands in `[auth.jwt]`. */
const file = (limits, jwt = '') => `[auth.jwt]\n${jwt}\n[limits]\n${limits}\n`;
const started = (node, limits, jwt) => node({ config: file(limits, jwt) });

/** Gives a node another file, and waits until it has taken it. */
async function reloaded(door, limits, jwt) {
  const from = door.lines.length;
  door.reload(file(limits, jwt));
  await eventually('the node says that it has taken its new configuration', async () => {
    const said = door.lines.slice(from);
    assert.ok(!said.some((line) => line.includes('at the next start only')), said.join('\n'));
    assert.ok(said.some((line) => line.includes('configuration reloaded')), said.join('\n'));
  });
}

const CHUNK = 'x'.repeat(400_000);

/** A WebSocket client that reads nothing, and for which some 8 MB wait on the node. */
async function stalled(door, user) {
  const raw = new RawSocket(door.url);
  await raw.connect({ token: token(user) });
  raw.stall();
  for (let i = 0; i < 30; i += 1) await door.api.send(user, 'fill', CHUNK);
  assert.equal((await door.api.user(user)).connections.length, 1, 'expected room for all of it');
  return raw;
}

const gone = (door, user) => eventually('the connection is gone', async () => (await door.api.user(user)).online === false, { ms: 15000 });
const slow = async (door) => {
  const text = (await door.api.request('GET', '/metrics')).text;
  return Number(/switchboard_disconnects_total\{reason="slow_consumer"\} (\d+)/.exec(text)?.[1] ?? 0);
};

test('limits.send_queue_bytes holds for a connection that is open: one with more unsent ends with 4002', async ({ node }) => {
  const door = await started(node, 'send_queue_bytes = "64MB"\nwrite_deadline = "1h"');
  const user = someone('stalled');
  const raw = await stalled(door, user);
  await reloaded(door, 'send_queue_bytes = "1MB"\nwrite_deadline = "1h"');
  await door.api.send(user, 'one more', 1);
  await gone(door, user);
  assert.equal(await slow(door), 1);
  await raw.seesClose();
});

test('limits.send_queue_bytes holds for a polling session that is open', async ({ node }) => {
  const door = await started(node, 'send_queue_bytes = "64MB"\nwrite_deadline = "1h"');
  const user = someone('unpolled');
  const session = await Polling.open(door.url);
  await session.connect({ token: token(user) });
  for (let i = 0; i < 5; i += 1) await door.api.send(user, 'fill', CHUNK);
  await reloaded(door, 'send_queue_bytes = "1MB"\nwrite_deadline = "1h"');
  await door.api.send(user, 'one more', CHUNK);
  await gone(door, user);
  assert.equal(await slow(door), 1);
});

test('limits.write_deadline holds for a connection that is open: one that has long been stalled ends with 4002', async ({ node }) => {
  const door = await started(node, 'send_queue_bytes = "64MB"\nwrite_deadline = "1h"');
  const user = someone('stalled');
  const raw = await stalled(door, user);
  const polling = someone('unpolled');
  const session = await Polling.open(door.url);
  await session.connect({ token: token(polling) });
  await reloaded(door, 'send_queue_bytes = "64MB"\nwrite_deadline = "1s"');
  await gone(door, user);
  await gone(door, polling);
  assert.equal(await slow(door), 2);
  await raw.seesClose();
});

test('auth.jwt.leeway holds for a connection that is open: one whose token ran out within the old leeway ends at once', async ({ node }) => {
  const door = await started(node, '', 'leeway = "1h"');
  const client = await connected(door, { token: token(someone('late'), { exp: Math.floor(Date.now() / 1000) - 60 }) });
  const fresh = await connected(door, { user: someone('fresh') });
  await reloaded(door, '', 'leeway = "0s"');
  await client.sentAway(4001, 'Token expired');
  await fresh.granted('devices');
});

test('auth.jwt.leeway holds for a connection that is open: a longer one lets it stay', async ({ node }) => {
  const door = await started(node, '', 'leeway = "1s"');
  const exp = Math.floor(Date.now() / 1000) + 2;
  const client = await connected(door, { token: token(someone('late'), { exp }) });
  const other = await started(node, '', 'leeway = "1s"');
  const ends = await connected(other, { token: token(someone('late'), { exp }) });
  await reloaded(door, '', 'leeway = "1h"');
  await ends.sentAway(4001, 'Token expired');
  await client.granted('devices');
  assert.equal(client.count('disconnect'), 0, client.history());
});

test('limits.events_per_second and .events_burst hold for a connection that is open', async ({ node }) => {
  const door = await started(node, '');
  const user = someone('chatty');
  const client = await connected(door, { user, reconnection: false });
  const chat = async () => {
    const before = client.count('error');
    for (let i = 0; i < 40; i += 1) client.socket.emit('chat', i);
    // What is answered in order, behind them.
    await client.ask('devices').catch(() => {});
    return client.count('error') - before;
  };
  assert.equal(await chat(), 0);
  await reloaded(door, 'events_per_second = 10\nevents_burst = 10');
  for (let i = 0; i < 40; i += 1) client.socket.emit('chat', i);
  await client.wait('error');
  await reloaded(door, 'events_per_second = 1000\nevents_burst = 1000');
  assert.equal(await chat(), 0);
  assert.equal(client.count('disconnect'), 0, client.history());
});

test('limits.max_payload and .max_payload_guest hold for new transports; those that are open keep what they were told', async ({ node }) => {
  const door = await started(node, 'max_payload = "200KB"\nmax_payload_guest = "20KB"');
  const sockets = async () => {
    const [guest, user] = [await new RawSocket(door.url).open(), new RawSocket(door.url)];
    guest.ws.send('40/public,');
    await guest.until(/^42\/public,\["ready"/);
    await user.connect({ token: token(someone('sender')) });
    return { guest, user };
  };
  /** Whether a client that sends so much stays. */
  const takes = async (raw, kind, bytes) => {
    const namespace = kind === 'guest' ? '/public,' : '';
    const acked = raw.packets.length;
    raw.ws.send(`42${namespace}["large","${'x'.repeat(bytes)}"]`);
    raw.ws.send(`42${namespace}7["devices"]`);
    return within(10000, 'the message is taken, or ends the transport', Promise.race([
      raw.closed.then(() => false),
      eventually('an ack', async () => raw.packets.slice(acked).some((packet) => packet.startsWith(`43${namespace}7[`)), { ms: 9000 }).then(() => true),
    ]));
  };
  const before = await sockets();
  const polling = await Polling.open(door.url);
  assert.deepEqual([before.user.handshake.maxPayload, polling.handshake.maxPayload], [200_000, 200_000]);
  await reloaded(door, 'max_payload = "100KB"\nmax_payload_guest = "50KB"');
  const after = await sockets();
  const pollingAfter = await Polling.open(door.url);
  assert.deepEqual([after.user.handshake.maxPayload, pollingAfter.handshake.maxPayload], [100_000, 100_000]);

  assert.deepEqual([await takes(before.user, 'user', 150_000), await takes(before.guest, 'guest', 30_000)], [true, false]);
  assert.deepEqual([await takes(after.user, 'user', 90_000), await takes(after.guest, 'guest', 30_000)], [true, true]);
  assert.equal(await takes(after.user, 'user', 150_000), false);
  const post = async (session) => {
    await session.connect({ token: token(someone('sender')) });
    return (await session.post(`42["large","${'x'.repeat(150_000)}"]`)).status;
  };
  assert.deepEqual([await post(polling), await post(pollingAfter)], [200, 413]);
  // What the API takes is the same limit.
  const send = (bytes) => door.api.request('POST', '/v1/users/x/events', { json: { event: 'e', data: 'x'.repeat(bytes) } });
  assert.deepEqual([(await send(90_000)).status, (await send(150_000)).status], [200, 413]);
  // More than at the start is possible as well.
  await reloaded(door, 'max_payload = "2MB"');
  const large = await sockets();
  assert.equal(await takes(large.user, 'user', 1_900_000), true);
});

test('limits.handshake_timeout and .handshakes hold for sessions that are waiting', async ({ node }) => {
  const door = await started(node, 'handshake_timeout = "1h"');
  const [socket, polling] = [await new RawSocket(door.url).open(), await Polling.open(door.url)];
  await reloaded(door, 'handshake_timeout = "1s"');
  await within(10000, 'a WebSocket without CONNECT is closed', socket.closed);
  await polling.refused({ ms: 10000 });
  await reloaded(door, 'handshake_timeout = "1h"\nhandshakes = 1');
  const first = await new RawSocket(door.url).open();
  const second = await new RawSocket(door.url).open();
  await within(10000, 'the first makes room for the second', first.closed);
  assert.equal(second.code, undefined);
});
