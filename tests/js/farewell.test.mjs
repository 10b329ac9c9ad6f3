// Contract 2, "how it ends": after a code below 4500 the transport is closed, and not found to be gone. A client that polls
// is told so with Engine.IO's close packet, as the answer to its next poll.

import assert from 'node:assert/strict';
import { connect, connected, eventually, exchange, onBothRegistries, Polling, RawSocket, someone, soon, test, token, within } from './harness.mjs';

const polling = { transports: ['polling'] };

onBothRegistries((world) => {
  test('polling: a stock client asked to reconnect sees "transport close", ten times over', async () => {
    const user = someone('asked');
    const client = connect(world.door, { user, ...polling, reconnectionDelay: 10 });
    for (let round = 1; round <= 10; round += 1) {
      await client.ready({ nth: round });
      assert.deepEqual(await world.api.disconnect(user, { code: 4003, reconnect: true }), { disconnected: 1, nodes: 1, remaining: [] });
      const [how] = await client.wait('disconnect', { nth: round });
      assert.equal(how, 'transport close', client.history());
      assert.equal(client.count('forceDisconnect'), round, client.history());
    }
    await client.ready({ nth: 11 });
  });

  test('polling: a stock client whose token has run out sees "transport close"', async () => {
    const client = connect(world.door, { ...polling, token: token(someone('expired'), { exp: soon(3) }), reconnection: false });
    await client.ready();
    const [how] = await client.wait('disconnect', { ms: 20000 });
    assert.equal(client.told().code, 4001);
    assert.equal(how, 'transport close', client.history());
  });

  test('polling: the close packet is said once, to the next poll, whether one was open or not', async () => {
    for (const open of [true, false]) {
      const user = someone('raw');
      const session = await Polling.open(world.door.url);
      await session.connect({ token: token(user) });
      const poll = open ? session.until(/^42\["forceDisconnect"/) : undefined;
      assert.deepEqual(await world.api.disconnect(user, { code: 4003, reconnect: true }), { disconnected: 1, nodes: 1, remaining: [] });
      await poll;
      await session.until(/^1$/);
      assert.equal(session.packets.filter((packet) => packet === '1').length, 1, `${session.packets}`);
      assert.ok(!session.packets.some((packet) => packet.startsWith('41')), `${session.packets}`);
      await session.refused();
    }
  });

  for (const agent of ['python-requests/2.34.2', 'Python/3.12 aiohttp/3.11.2']) {
    test(`polling: a Python client (${agent}), which a close packet would keep away for good, finds its session unknown`, async () => {
      const user = someone('python');
      const session = await Polling.open(world.door.url, { headers: { 'user-agent': agent } });
      await session.connect({ token: token(user) });
      const poll = session.until(/^42\["forceDisconnect"/);
      assert.deepEqual(await world.api.disconnect(user, { code: 4003, reconnect: true }), { disconnected: 1, nodes: 1, remaining: [] });
      await poll;
      await eventually('its session is unknown', async () => assert.equal((await session.poll()).status, 400));
      assert.ok(!session.packets.includes('1'), `${session.packets}`);
    });
  }

  test('websocket: a session that is ended has no close frame, which would keep a Java client from coming back; its client\'s own is answered', async () => {
    const user = someone('java');
    const raw = new RawSocket(world.door.url);
    await raw.connect({ token: token(user) });
    await world.api.disconnect(user, { code: 4003, reconnect: true });
    assert.equal(await within(5000, 'the server closes the WebSocket', raw.closed), 1006, 'expected the end of the stream and nothing before it');
    const other = new RawSocket(world.door.url);
    await other.connect({ token: token(user) });
    other.ws.close(1000);
    assert.equal(await within(5000, 'the close frame is answered', other.closed), 1000);
  });

  test('websocket: a client that is kicked gets to end its transport itself, as a Python one needs to stay away', async () => {
    const user = someone('kicked');
    const raw = new RawSocket(world.door.url);
    await raw.connect({ token: token(user) });
    const before = performance.now();
    assert.deepEqual(await world.api.disconnect(user), { disconnected: 1, nodes: 1, remaining: [] });
    await raw.until(/^41$/);
    await within(5000, 'the server closes the WebSocket', raw.closed);
    // The least that passes: however slow this machine is, it is not less.
    assert.ok(performance.now() - before >= 200, `expected it not to be closed before 200 ms, and not after ${performance.now() - before}`);
  });

  test('polling: what is said into a session that is to close is not taken', async () => {
    const user = someone('late');
    const session = await Polling.open(world.door.url);
    await session.connect({ token: token(user) });
    await world.api.disconnect(user, { code: 4003, reconnect: true });
    assert.equal((await session.post('42["devices"]')).status, 400);
    assert.equal((await session.poll()).text, '1');
  });

  test('polling: after a final code there is a DISCONNECT packet and no close packet', async () => {
    const user = someone('final');
    const session = await Polling.open(world.door.url);
    await session.connect({ token: token(user) });
    const poll = session.until(/^41/);
    await world.api.disconnect(user);
    await poll;
    await session.refused();
    assert.ok(!session.packets.includes('1'), `${session.packets}`);
  });
});

test('polling: a stock client of a node that shuts down sees "transport close"', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_DRAIN__WINDOW: '1s' } });
  const clients = await Promise.all(Array.from({ length: 5 }, () => connected(door, { user: someone('drained'), ...polling, reconnection: false })));
  door.signal('SIGTERM');
  for (const client of clients) {
    const [how] = await client.wait('disconnect', { ms: 20000 });
    assert.equal(client.told().code, 4000);
    assert.equal(how, 'transport close', client.history());
  }
});

test('a session that has just been closed is unknown, with a code that is a number', async ({ node }) => {
  const door = await node();
  const unknown = { code: 1, message: 'Session ID unknown' };
  const session = await Polling.open(door.url);
  // No packet: the engine closes the session, and keeps it for as long as a handshake may take.
  await session.post('4x');
  await eventually('the session is unknown', async () => {
    assert.deepEqual((await session.poll()).json, unknown);
  });
  assert.deepEqual((await session.post('40')).json, unknown);
  const never = await exchange(door.url, 'GET', '/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA');
  assert.deepEqual(never.json, unknown);
});
