// Contract 12: clients watch other users.

import assert from 'node:assert/strict';
import { connected, eventually, onBothRegistries, segment, someone, test, token } from './harness.mjs';

const config = (rule) => `
[presence]
watch = "${rule}"
watch_limit = 3
offline_delay = "700ms"
`;

/** What a client was told of a user, in order. */
const told = (client, user) => client.seen.filter(({ name, args }) => name === 'presence' && args[0].userId === user).map(({ args }) => args[0].online);

onBothRegistries((world) => {
  test('who is watched is told of when it comes and when it has gone for a while', async () => {
    const [watcher, other] = [await connected(world.door, { user: someone('watcher') }), await connected(world.desk, { user: someone('watcher') })];
    const [user, there] = [someone('watched'), someone('there')];
    await connected(world.desk, { user: there });
    assert.deepEqual(await watcher.granted('watch', [user, there]), { users: { [user]: { online: false, lastSeen: null }, [there]: { online: true, lastSeen: null } } });
    await other.granted('watch', [user]);

    const first = await connected(world.desk, { user });
    const second = await connected(world.door, { user });
    for (const client of [watcher, other]) assert.deepEqual(await client.wait('presence'), [{ userId: user, online: true, lastSeen: null }]);
    first.socket.disconnect();
    second.socket.disconnect();
    for (const client of [watcher, other]) {
      const [gone] = await client.wait('presence', { nth: 2 });
      assert.deepEqual([gone.userId, gone.online], [user, false]);
      const { lastSeen } = await world.api.user(user);
      assert.equal(gone.lastSeen, lastSeen);
      assert.ok(Date.now() - Date.parse(lastSeen) >= 700, 'after the delay');
    }
    await connected(world.door, { user });
    for (const client of [watcher, other]) {
      await client.wait('presence', { nth: 3 });
      assert.deepEqual(told(client, user), [true, false, true], client.history());
    }
  });

  test('who comes back in time was not gone, and who is not watched any more is not told of', async () => {
    const watcher = await connected(world.door, { user: someone('watcher') });
    const [user, mark] = [someone('back'), someone('mark')];
    let client = await connected(world.desk, { user });
    assert.equal((await watcher.granted('watch', [user, mark])).users[user].online, true);
    client.socket.disconnect();
    await eventually('it is gone', async () => assert.equal((await world.api.user(user)).online, false));
    client = await connected(world.door, { user });
    const one = await connected(world.desk, { user: mark });
    // Who comes and goes within a moment may never be seen.
    await watcher.wait('presence');
    one.socket.disconnect();
    // It went after the other, and is told of: so the other would have been.
    await watcher.wait('presence', { nth: 2 });
    assert.deepEqual(told(watcher, mark), [true, false]);
    assert.deepEqual(told(watcher, user), []);

    await watcher.granted('unwatch', [user]);
    client.socket.disconnect();
    await connected(world.desk, { user: mark });
    await watcher.wait('presence', { nth: 3 });
    assert.deepEqual(told(watcher, user), []);
    const again = await watcher.granted('watch', [user]);
    assert.equal(again.users[user].online, false);
  });

  test('the delay begins anew each time that a user goes', async () => {
    const watcher = await connected(world.door, { user: someone('watcher') });
    const user = someone('restless');
    await watcher.granted('watch', [user]);
    for (let round = 0; round < 3; round += 1) {
      const client = await connected(world.desk, { user });
      await watcher.wait('presence');
      client.socket.disconnect();
      await eventually('it is gone', async () => assert.equal((await world.api.user(user)).online, false));
    }
    await watcher.wait('presence', { nth: 2 });
    const { lastSeen } = await world.api.user(user);
    assert.ok(Date.now() - Date.parse(lastSeen) >= 700, 'after the delay');
    assert.deepEqual(told(watcher, user), [true, false]);
  });

  test('a connection watches so many users, each by an id', async () => {
    const watcher = await connected(world.door, { user: someone('watcher') });
    assert.deepEqual(Object.keys((await watcher.granted('watch', [7, '8'])).users), ['7', '8']);
    assert.deepEqual(Object.keys((await watcher.granted('watch', ['8', '8', '9'])).users).sort(), ['8', '9']);
    await watcher.denied('Too many users', 'watch', ['10']);
    await watcher.granted('unwatch', ['7', 'nobody']);
    await watcher.granted('watch', ['10']);
    for (const wrong of ['7', { 0: '7' }, [null], [''], [['7']], [1.5], undefined]) await watcher.denied('Invalid arguments', 'watch', wrong);
    const rooms = await world.api.ok('GET', '/v1/rooms');
    assert.deepEqual(rooms, { rooms: [], next: null }, 'who watches is in no room');
    assert.deepEqual((await world.api.connection(watcher.id)).rooms, []);
  });

  test('a guest who says who it is watches on', async () => {
    const user = someone('watched');
    const guest = await connected(world.door, { namespace: '/public' });
    await guest.granted('watch', [user]);
    await guest.granted('authenticate', token(someone('known')));
    await connected(world.desk, { user });
    await guest.wait('presence');
    assert.deepEqual(told(guest, user), [true]);
  });
}, { config: config('any') });

onBothRegistries((world) => {
  test('a token says who is watched, from the start', async () => {
    const me = someone('friend');
    const [one, two, three] = [someone('one'), someone('two'), someone('three')];
    await connected(world.desk, { user: one });
    const client = await connected(world.door, { user: me, claims: { watch: [one, two] } });
    await client.wait('presence', { nth: 2 });
    assert.deepEqual([told(client, one), told(client, two)], [[true], [false]]);
    await connected(world.desk, { user: two });
    await client.wait('presence', { nth: 3 });
    assert.deepEqual(told(client, two), [false, true]);
    await client.denied(`Not allowed to watch: ${three}`, 'watch', [one, three]);

    await client.granted('refreshToken', token(me, { watch: [two, three] }));
    await client.wait('presence', { nth: 4 });
    assert.deepEqual(told(client, three), [false]);
    await connected(world.desk, { user: three });
    await client.wait('presence', { nth: 5 });
    assert.deepEqual([told(client, one), told(client, three)], [[true], [false, true]]);
    const none = await connected(world.door, { user: me });
    await none.denied([], 'watch', [one]);
  });
}, { config: config('claim') });

test('a thousand users are watched with one event', async ({ node }) => {
  const alone = await node({ env: { SWITCHBOARD_PRESENCE__WATCH: 'any' } });
  const client = await connected(alone, { user: someone('watcher') });
  const users = Array.from({ length: 1000 }, (_, n) => `0d9a7e52-6f0c-4c1e-9d0a-${String(n).padStart(12, '0')}`);
  assert.deepEqual(Object.keys((await client.granted('watch', users)).users), users);
  await client.denied('Too many users', 'watch', ['one more']);
  await client.denied('Invalid arguments', 'watch', Array(2000).fill('x'.repeat(36)));
  await client.granted('unwatch', users);
  await client.granted('watch', ['one more']);
});

test('a token may name a thousand users to watch', async ({ node }) => {
  const alone = await node({ env: { SWITCHBOARD_PRESENCE__WATCH: 'claim' } });
  const users = Array.from({ length: 1000 }, (_, n) => `0d9a7e52-6f0c-4c1e-9d0a-${String(n).padStart(12, '0')}`);
  const client = await connected(alone, { user: someone('watcher'), claims: { watch: users } });
  await eventually('all are told of', async () => assert.equal(client.count('presence'), 1000));
  await connected(alone, { user: users.at(-1) });
  await client.wait('presence', { nth: 1001 });
});

test('nobody is watched where that is off', async ({ node }) => {
  const alone = await node();
  const client = await connected(alone, { user: someone('watcher') });
  await client.denied('Unknown event', 'watch', ['7']);
});

test('the end of a node ends who was on it, and a loss of data ends nobody', async ({ node, redis }) => {
  const server = await redis();
  const settings = { redis: server, config: config('any'), env: { SWITCHBOARD_REGISTRY__HEARTBEAT: '300ms', SWITCHBOARD_REGISTRY__LEASE: '1500ms' } };
  const [stays, dies] = [await node({ ...settings, name: 'stays' }), await node({ ...settings, name: 'dies' })];
  const watcher = await connected(stays, { user: someone('watcher') });
  const [lost, kept] = [someone('lost'), someone('kept')];
  await connected(dies, { user: lost, reconnection: false });
  await connected(stays, { user: kept });
  await watcher.granted('watch', [lost, kept]);
  await dies.kill();
  const [gone] = await watcher.wait('presence');
  assert.deepEqual([gone.userId, gone.online], [lost, false]);

  await server.command('FLUSHALL');
  const again = await node({ ...settings, name: 'again' });
  await eventually('the node is ready', async () => assert.equal((await again.api.request('GET', '/readyz')).status, 200), { ms: 15000 });
  await connected(again, { user: lost });
  await watcher.wait('presence', { nth: 2, ms: 40000 });
  assert.deepEqual([told(watcher, lost), told(watcher, kept)], [[false, true], []], watcher.history());
});

test('a user whose node hung is offline, and online again when it is back', { ms: 60000 }, async ({ node, redis }) => {
  const server = await redis();
  const settings = { redis: server, config: config('any'), env: { SWITCHBOARD_REGISTRY__HEARTBEAT: '500ms', SWITCHBOARD_REGISTRY__LEASE: '2s' } };
  const hangs = await node({ ...settings, name: 'hangs' });
  const stays = await node({ ...settings, name: 'stays' });
  const watcher = await connected(stays, { user: someone('watcher') });
  const user = someone('hung');
  const client = await connected(hangs, { user, reconnection: false });
  await watcher.granted('watch', [user]);
  hangs.signal('SIGSTOP');
  await watcher.wait('presence', { ms: 20000 });
  hangs.signal('SIGCONT');
  // The round in which all that is watched is looked at anyway is longer than this.
  await watcher.wait('presence', { nth: 2, ms: 20000 });
  assert.deepEqual(told(watcher, user), [false, true], watcher.history());
  assert.equal(client.count('disconnect'), 0, client.history());
});
