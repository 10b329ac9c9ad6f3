// Contract 9: how many connections a user may have, counted over the whole cluster.

import assert from 'node:assert/strict';
import { connect, connected, eventually, onBothRegistries, Polling, connectPacket, someone, test, token } from './harness.mjs';

const LIMIT = 3;
const env = { SWITCHBOARD_LIMITS__CONNECTIONS_PER_USER: String(LIMIT) };
const evicting = { ...env, SWITCHBOARD_LIMITS__CONNECTIONS_PER_USER_POLICY: 'evict_oldest' };

/** Connections of one user, one after the other, on either node in turn. */
async function fill(world, user, count = LIMIT) {
  const clients = [];
  for (let i = 0; i < count; i += 1) clients.push(await connected(i % 2 ? world.desk : world.door, { user, reconnection: false, label: `connection ${i + 1} of ${user}` }));
  return clients;
}

const listed = async (world, user) => (await world.api.user(user)).connections.map((one) => one.id).sort();
const ids = (clients) => clients.map((client) => client.id).sort();

onBothRegistries((world) => {
  test('reject: one too many is refused with "Too many connections", on every node', async () => {
    const user = someone('full');
    const clients = await fill(world, user);
    for (const at of [world.door, world.desk]) await connect(at, { user }).refused('Too many connections');
    await connect(world.door, { user, namespace: '/public' }).refused('Too many connections');
    assert.deepEqual(await listed(world, user), ids(clients));
    for (const client of clients) assert.equal(client.count('disconnect'), 0);
    // A refusal is counted for nobody else.
    await fill(world, someone('another'));
  });

  test('reject: whoever leaves makes room, by itself or by a disconnect', async () => {
    const user = someone('room');
    const clients = await fill(world, user);
    clients[1].socket.disconnect();
    await eventually('there is room again', async () => assert.equal((await listed(world, user)).length, LIMIT - 1));
    clients[1] = await connected(world.door, { user });
    await connect(world.desk, { user }).refused('Too many connections');
    await world.api.disconnect(user);
    await fill(world, user);
  });

  test('reject: two namespaces on one transport are two connections', async () => {
    const user = someone('two');
    const [client] = await fill(world, user, LIMIT - 1);
    const open = client.join('/public');
    await open.ready();
    await connect(world.desk, { user }).refused('Too many connections');
  });

  test('reject: guests are not counted, until one says who it is', async () => {
    const user = someone('full');
    await fill(world, user, LIMIT - 1);
    const guests = [];
    for (let i = 0; i < LIMIT + 2; i += 1) {
      const guest = connect(i % 2 ? world.door : world.desk, { auth: {}, namespace: '/public' });
      await guest.ready();
      guests.push(guest);
    }
    await guests[0].granted('authenticate', token(user));
    await guests[1].denied('Too many connections', 'authenticate', token(user));
    assert.equal((await world.api.connection(guests[1].id)).userId, null);
    assert.equal((await listed(world, user)).length, LIMIT);
  });

  test('reject: a refreshed token is no new connection', async () => {
    const user = someone('full');
    const clients = await fill(world, user);
    for (const client of clients) await client.granted('refreshToken', token(user));
    assert.deepEqual(await listed(world, user), ids(clients));
  });

  test('reject: a polling client upgraded to WebSocket is one', async () => {
    const user = someone('upgraded');
    const clients = [];
    for (let i = 0; i < LIMIT; i += 1) clients.push(await connected(world.door, { user, transports: ['polling', 'websocket'] }));
    await eventually('all are upgraded', async () => {
      const { connections } = await world.api.user(user);
      assert.deepEqual(connections.map((one) => one.transport), Array(LIMIT).fill('websocket'));
    });
    await connect(world.desk, { user }).refused('Too many connections');
  });

  test('reject: a refused handshake leaves nothing behind, over polling either', async () => {
    const user = someone('full');
    await fill(world, user);
    const session = await Polling.open(world.door.url);
    await session.post(connectPacket({ token: token(user) }));
    await session.until(/^44\{"message":"Too many connections","data":\{"code":"too_many_connections"\}\}$/);
    assert.equal((await listed(world, user)).length, LIMIT);
  });

  test('reject: of thirty that come at once, exactly as many as may get in', async () => {
    for (let round = 0; round < 5; round += 1) {
      const user = someone('crowd');
      const clients = Array.from({ length: 30 }, (_, i) => connect(i % 2 ? world.door : world.desk, { user, label: `client ${i}` }));
      const outcomes = await Promise.all(clients.map((client) => client.outcome()));
      const inside = clients.filter((_, i) => outcomes[i] === 'ready');
      assert.deepEqual([...outcomes].sort(), [...Array(30 - LIMIT).fill('Too many connections'), ...Array(LIMIT).fill('ready')]);
      assert.deepEqual(await listed(world, user), ids(inside));
      assert.equal((await world.api.disconnect(user)).disconnected, LIMIT);
    }
  });
}, { env });

onBothRegistries((world) => {
  test('evict_oldest: one too many gets in, and the oldest ends with 4504, on whichever node it is', async () => {
    const user = someone('full');
    const clients = await fill(world, user);
    for (let i = 0; i < LIMIT + 1; i += 1) {
      const next = await connected(i % 2 ? world.door : world.desk, { user, reconnection: false });
      await clients[0].kicked(4504, 'Connection limit');
      clients.shift();
      clients.push(next);
      await eventually('exactly the newest are listed', async () => assert.deepEqual(await listed(world, user), ids(clients)));
      for (const client of clients) assert.equal(client.count('disconnect'), 0, `expected only the oldest to go; ${client.label} got: ${client.history()}`);
    }
  });

  test('evict_oldest: other users, guests and what is within the limit are left alone', async () => {
    const user = someone('full');
    const others = [await connected(world.door, { user: someone('other') }), await connected(world.door, { auth: {}, namespace: '/public' })];
    const [oldest] = await fill(world, user, LIMIT + 1);
    await oldest.kicked(4504);
    for (const other of others) assert.equal(other.count('disconnect'), 0);
  });

  test('evict_oldest: a guest who says who it is counts as well', async () => {
    const user = someone('full');
    const clients = await fill(world, user);
    const guest = connect(world.door, { auth: {}, namespace: '/public' });
    await guest.ready();
    const { connectionId } = await guest.granted('authenticate', token(user));
    await clients[0].kicked(4504);
    // The packet is there before the transport is closed, and that before the registry is told.
    await eventually('the first one is out', async () => assert.deepEqual(await listed(world, user), [connectionId, clients[1].id, clients[2].id].sort()));
  });

  test('evict_oldest: after thirty came at once, exactly as many as may are left, and each of the others was told', async () => {
    for (let round = 0; round < 3; round += 1) {
      const user = someone('crowd');
      const clients = Array.from({ length: 30 }, (_, i) => connect(i % 2 ? world.door : world.desk, { user, reconnection: false, label: `client ${i}` }));
      await Promise.all(clients.map((client) => client.outcome()));
      const left = await eventually('exactly as many as may are left', async () => {
        const inside = clients.filter((client) => client.socket.connected);
        assert.equal(inside.length, LIMIT, `${inside.length} are connected`);
        assert.deepEqual(await listed(world, user), ids(inside));
        return inside;
      }, { ms: 15000 });
      for (const client of clients.filter((one) => !left.includes(one))) await client.kicked(4504, 'Connection limit');
      assert.equal((await world.api.disconnect(user)).disconnected, LIMIT);
    }
  });
}, { env: evicting });

onBothRegistries((world) => {
  test('who comes too often is cut off, comes back by itself, and gets in', { ms: 90000 }, async () => {
    const user = someone('rush');
    const refused = async () => {
      const pages = await Promise.all([...new Set([world.door, world.desk])].map((at) => at.api.request('GET', '/metrics')));
      return pages.reduce((sum, page) => sum + Number(page.text.match(/^switchboard_connect_errors_total\{reason="user_rate"\} (\d+)$/m)[1]), 0);
    };
    const clients = Array.from({ length: 10 }, (_, i) => connect(i % 2 ? world.door : world.desk, { user, label: `client ${i}` }));
    for (const client of clients) await client.ready({ ms: 60000 });
    assert.ok(await refused() > 0, 'expected some to be refused at first, and counted');
    const told = clients.flatMap((client) => client.seen.filter(({ name, args }) => name === 'connect_error' && args[0]?.data?.code));
    assert.deepEqual(told, [], 'expected nobody to be told to stay away');
    assert.equal((await world.api.user(user)).connections.length, 10);
    // Others and guests are not held up.
    for (let i = 0; i < 6; i += 1) await connect(world.door, { auth: {}, namespace: '/public' }).ready();
    await connected(world.door, { user: someone('other') });
  });

  test('a namespace that comes too often waits, and takes nothing of its transport along', async () => {
    const user = someone('rush');
    const first = await connected(world.door, { user, reconnection: false });
    await connected(world.desk, { user, reconnection: false });
    const open = first.join('/public');
    await open.ready({ ms: 30000 });
    assert.equal(first.count('disconnect'), 0);
  });
}, { env: { SWITCHBOARD_LIMITS__CONNECTS_PER_SECOND_PER_USER: '1' } });

test('the connections of a node that died make room when its lease is over', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const timing = { SWITCHBOARD_REGISTRY__HEARTBEAT: '500ms', SWITCHBOARD_REGISTRY__LEASE: '2s' };
  const [one, doomed] = await Promise.all(['n1', 'n2'].map((name) => node({ redis: store, name, env: { ...env, ...timing } })));
  const user = someone('ghost');
  for (let i = 0; i < LIMIT; i += 1) await connected(doomed, { user, reconnection: false });
  await connect(one, { user }).refused('Too many connections');
  await doomed.kill();
  await eventually('the user gets in again', async () => assert.equal(await connect(one, { user }).outcome(), 'ready'), { ms: 15000, every: 250 });
});
