// Contract 2: a token's end on a live connection, its renewal, a user's devices, and guests who say who they are.

import assert from 'node:assert/strict';
import jwt from 'jsonwebtoken';
import { CONNECT_ERRORS, connect, connected, eventually, expectProblem, onBothRegistries, segment, someone, soon, test, token } from './harness.mjs';

const LEAD = 2000;
const env = { SWITCHBOARD_AUTH__JWT__LEEWAY: '0s', SWITCHBOARD_AUTH__REFRESH_LEAD: `${LEAD}ms` };
// A timer may be a tick early; how late it is depends on the machine and is not held against it.
const TICK = 1000;
const ANOTHER_SECRET = 'another-secret-that-is-also-32-bytes-long';

const time = (text) => Date.parse(text);
const sorted = (connections) => [...connections].sort((a, b) => (a.id < b.id ? -1 : 1));

onBothRegistries((world) => {
  for (const transport of ['websocket', 'polling']) {
    test(`tokenExpiring, then 4001, and a client whose auth is a function comes back with a fresh token (${transport})`, async () => {
      const user = someone('expiring');
      const given = [];
      const auth = (answer) => {
        given.push(token(user, { exp: soon(given.length ? 600 : 5) }));
        answer({ token: given.at(-1) });
      };
      const client = connect(world.door, { auth, transports: [transport], reconnectionDelay: 50 });
      const { connectionId, expiresAt } = await client.ready();
      const exp = jwt.decode(given[0]).exp * 1000;
      assert.equal(time(expiresAt), exp);

      const [warning] = await client.wait('tokenExpiring');
      const warned = Date.now();
      assert.deepEqual(Object.keys(warning), ['expiresAt']);
      assert.equal(time(warning.expiresAt), exp, 'expected tokenExpiring to name the token\'s exp');
      assert.ok(warned >= exp - LEAD - TICK, `expected tokenExpiring ${LEAD} ms ahead, it came ${exp - warned} ms ahead`);
      assert.ok(warned < exp, 'expected tokenExpiring ahead of exp');

      await client.sentAway(4001, 'Token expired');
      assert.ok(Date.now() >= exp - TICK, 'expected the token to be good until its exp');
      assert.equal(client.count('tokenExpiring'), 1, `expected one warning; history: ${client.history()}`);
      await client.ready({ nth: 2 });
      assert.equal(given.length, 2);
      await eventually('exactly the new connection is listed', async () => {
        assert.deepEqual((await world.api.user(user)).connections.map((one) => one.id), [client.id]);
      });
      assert.notEqual(client.id, connectionId);
    });
  }

  test('a token that expires in two namespaces of one transport closes it, and the client comes back in both', async () => {
    const user = someone('both');
    let exp = soon(3);
    const auth = (answer) => answer({ token: token(user, { exp }) });
    const main = connect(world.door, { auth, reconnectionDelay: 50 });
    await main.ready();
    const beside = main.join('/public', { auth });
    await beside.ready();
    await main.wait('tokenExpiring');
    exp = soon(600);
    for (const client of [main, beside]) {
      await client.sentAway(4001, 'Token expired');
      await client.ready({ nth: 2 });
    }
  });

  test('a client that comes back with the same token is told that it has expired', async () => {
    const user = someone('stale');
    const client = connect(world.door, { user, claims: { exp: soon(3) }, reconnectionDelay: 50 });
    await client.ready();
    await client.sentAway(4001, 'Token expired');
    const [error] = await client.wait('connect_error');
    assert.equal(error.message, 'Invalid or expired token');
    assert.equal(client.socket.active, false, 'expected the refusal to be final');
    await eventually('nothing is listed of a user whose token is over', async () => (await world.api.user(user)).online === false);
  });

  test('a token that ends within the lead is warned of as well', async () => {
    const client = await connected(world.door, { user: someone('short'), claims: { exp: soon(3) }, reconnection: false });
    await client.wait('tokenExpiring');
    await client.sentAway(4001, 'Token expired');
  });

  test('refreshToken renews in place: no end at the old exp, and the registry knows the new one', async () => {
    const user = someone('renewed');
    const exp = soon(3);
    const [client, witness] = [await connected(world.door, { user, claims: { exp } }), await connected(world.door, { user, claims: { exp }, reconnection: false })];
    // A handshake takes one of this length, too.
    const fresh = token(user, { exp: soon(600), watch: Array(4000).fill('x').map((x, n) => `${x}${n}`) });
    const { expiresAt } = await client.granted('refreshToken', fresh);
    assert.equal(time(expiresAt), jwt.decode(fresh).exp * 1000);
    assert.equal((await world.api.connection(client.id)).expiresAt, expiresAt, 'expected GET connection to show the new expiresAt, from any node');
    assert.equal((await world.api.user(user)).connections.find((one) => one.id === client.id)?.expiresAt, expiresAt);

    // Another client with the same exp tells when it has passed.
    await witness.sentAway(4001, 'Token expired');
    await eventually('exactly the renewed connection is left', async () => {
      const { connections } = await client.granted('devices');
      assert.deepEqual(connections.map((one) => [one.id, one.expiresAt]), [[client.id, expiresAt]]);
    });
    assert.equal(client.count('disconnect'), 0, `expected the connection to stay; history: ${client.history()}`);
    assert.equal(client.count('ready'), 1);
  });

  test('a renewed token has an end, too', async () => {
    const user = someone('twice');
    const client = await connected(world.door, { user, claims: { exp: soon(600) }, reconnection: false });
    const exp = soon(4);
    await client.granted('refreshToken', `Bearer ${token(user, { exp })}`);
    const [warning] = await client.wait('tokenExpiring');
    assert.equal(time(warning.expiresAt), exp * 1000);
    await client.sentAway(4001, 'Token expired');
  });

  test('refreshToken is denied in a connect error\'s words, and the connection stays as it is', async () => {
    const user = someone('denied');
    const client = await connected(world.door, { user });
    const { expiresAt } = await world.api.connection(client.id);
    const revoked = token(user, { jti: `jti-${user}`, exp: soon(1200) });
    await world.api.revokeToken(`jti-${user}`);
    for (const [what, given, messages] of [
      ['another user\'s', token(someone('other')), ['Invalid token', 'Access denied']],
      ['an expired one', token(user, { exp: soon(-60) }), 'Invalid or expired token'],
      ['another signer\'s', token(user, {}, { secret: ANOTHER_SECRET }), 'Invalid token'],
      ['no token', 'rubbish', 'Invalid token'],
      ['null', null, 'Authentication token required'],
      ['an empty text', '', 'Authentication token required'],
      ['a number', 42, 'Invalid token'],
      ['an object', { token: token(user) }, 'Invalid token'],
      ['a revoked one', revoked, 'Token revoked'],
    ]) {
      const error = await client.denied(messages, 'refreshToken', given);
      assert.ok(CONNECT_ERRORS.includes(error), `expected a connect error's message for ${what}, got ${error}`);
    }
    assert.deepEqual((await world.api.user(user)).connections.map((one) => [one.id, one.expiresAt]), [[client.id, expiresAt]]);
    await world.api.send(user, 'still', 1);
    await client.wait('still');
    assert.equal(client.count('disconnect'), 0, client.history());
  });

  test('refreshToken in /admin asks for the role, as the door does', async () => {
    const user = someone('admin');
    const admin = await connected(world.door, { user, claims: { role: 'admin' }, namespace: '/admin' });
    await admin.denied('Admin access required', 'refreshToken', token(user, { role: 'editor' }));
    await admin.granted('refreshToken', token(user, { role: 'admin' }));
    assert.equal(admin.count('disconnect'), 0);
  });

  test('refreshToken without an acknowledgement is taken, or not, without harm', async () => {
    const user = someone('mute');
    const client = await connected(world.door, { user });
    client.socket.emit('refreshToken', token(user, { exp: soon(1200) }));
    client.socket.emit('refreshToken');
    client.socket.emit('devices');
    client.socket.emit('logoutDevice');
    await client.granted('devices');
    assert.equal(client.count('disconnect'), 0, client.history());
  });

  test('devices: the caller\'s own connections on every node and in every namespace, and nobody else\'s', async () => {
    const [user, other] = [someone('own'), someone('other')];
    await connected(world.door, { user: other });
    const phone = await connected(world.door, { user, deviceId: 'phone' });
    const laptop = await connected(world.desk, { user, deviceId: 'laptop' });
    const open = phone.join('/public');
    await open.ready();
    for (const client of [phone, laptop, open]) {
      const answer = await client.granted('devices');
      assert.deepEqual(Object.keys(answer), ['connections']);
      assert.deepEqual(sorted(answer.connections), sorted((await world.api.user(user)).connections), 'expected the same Connections as the API\'s');
      assert.deepEqual(answer.connections.map((one) => one.id).sort(), [phone.id, laptop.id, open.id].sort());
    }
  });

  test('devices: a page at a time', async () => {
    const user = someone('pages');
    const all = [];
    for (let i = 0; i < 5; i += 1) all.push(await connected(i % 2 ? world.desk : world.door, { user }));
    const expected = all.map((one) => one.id).sort();
    const ids = (answer) => answer.connections.map((one) => one.id);
    assert.deepEqual(ids(await all[0].granted('devices', { limit: 1000 })), expected);
    const seen = [];
    let cursor;
    for (const size of [2, 2, 1]) {
      const answer = await all[0].granted('devices', cursor ? { limit: 2, cursor } : { limit: 2 });
      assert.equal(answer.connections.length, size);
      seen.push(...ids(answer));
      cursor = answer.next;
      assert.equal(cursor !== undefined, seen.length < 5);
    }
    assert.deepEqual(seen, expected);
    for (const bad of [{ limit: 0 }, { limit: 1001 }, { limit: -1 }, { limit: '2' }, { cursor: 7 }, { page: 1 }, 'all', 17]) {
      await all[0].denied('Invalid arguments', 'devices', bad);
    }
  });

  test('logoutDevice: another of one\'s own, on any node, ends with 4505', async () => {
    const user = someone('logout');
    const [here, there] = [await connected(world.door, { user }), await connected(world.desk, { user })];
    assert.deepEqual(await here.ask('logoutDevice', there.id), { ok: true });
    await there.kicked(4505, 'Logged out from another device');
    expectProblem(await world.api.request('GET', `/v1/connections/${segment(there.id)}`), 404, 'GET of a connection that was logged out');
    assert.deepEqual((await here.granted('devices')).connections.map((one) => one.id), [here.id]);
    assert.equal(here.count('disconnect'), 0);
  });

  test('logoutDevice: one\'s own connection is no other one: denied as an unknown one, and it stays', async () => {
    const user = someone('self');
    const client = await connected(world.door, { user });
    const unknown = await client.denied([], 'logoutDevice', 'unknown');
    assert.deepEqual(await client.denied([], 'logoutDevice', client.id), unknown);
    await client.granted('devices');
    assert.equal(client.count('disconnect'), 0, client.history());
    // One of the same transport, in another namespace, is another.
    const open = client.join('/public');
    await open.ready();
    assert.deepEqual(await client.ask('logoutDevice', open.id), { ok: true });
    await open.kicked(4505);
  });

  test('logoutDevice: someone else\'s, an unknown one and what is no id are denied alike', async () => {
    const [user, other] = [someone('thief'), someone('victim')];
    const client = await connected(world.door, { user });
    const victim = await connected(world.desk, { user: other });
    const guest = connect(world.desk, { auth: {}, namespace: '/public' });
    await guest.ready();
    const errors = new Set();
    for (const id of [victim.id, guest.id, 'unknown', `${client.id}x`, '../x', '*']) errors.add(await client.denied([], 'logoutDevice', id));
    assert.equal(errors.size, 1, `expected one answer for all, so that it does not tell which ids exist; got ${[...errors]}`);
    for (const id of [null, 42, '', {}, [victim.id], { id: victim.id }]) await client.denied([], 'logoutDevice', id);
    for (const one of [client, victim, guest]) assert.equal((await one.granted('devices')).connections.length, 1, `expected ${one.label} to be untouched`);
  });

  test('guests see themselves only, and log nobody out', async () => {
    const user = await connected(world.door, { user: someone('known') });
    const guests = [];
    for (const at of [world.door, world.door, world.desk]) {
      const guest = connect(at, { auth: {}, namespace: '/public', label: `guest ${guests.length + 1}` });
      await guest.ready();
      guests.push(guest);
    }
    for (const guest of guests) {
      const { connections } = await guest.granted('devices');
      assert.deepEqual(connections.map((one) => [one.id, one.userId]), [[guest.id, null]], `expected ${guest.label} to see itself only`);
      for (const id of [...guests.filter((one) => one !== guest).map((one) => one.id), user.id]) await guest.denied([], 'logoutDevice', id);
      await guest.denied([], 'refreshToken', 'rubbish');
    }
    for (const one of [...guests, user]) assert.equal(one.count('disconnect'), 0);
  });

  test('authenticate: a guest becomes its user\'s without reconnecting', async () => {
    const user = someone('late');
    const guest = connect(world.door, { auth: { deviceId: 'kiosk' }, namespace: '/public', reconnection: false });
    const { connectionId } = await guest.ready();
    // Who was here before may be leaving yet.
    const before = await eventually('nobody but the guest is there', async () => {
      const stats = await world.api.stats();
      assert.deepEqual([stats.connections, stats.users], [1, 0]);
      return stats;
    });
    const first = await connected(world.desk, { user });

    const exp = soon(600);
    const answer = await guest.granted('authenticate', token(user, { exp, username: 'Ada', role: 'editor' }));
    assert.ok(answer.connectionId, `expected a connectionId, got ${JSON.stringify(answer)}`);
    assert.deepEqual([answer.userId, time(answer.expiresAt)], [user, exp * 1000]);
    guest.id = answer.connectionId;

    const view = await world.api.user(user);
    assert.deepEqual(view.connections.map((one) => one.id).sort(), [first.id, guest.id].sort(), 'expected it to be listed as its user\'s');
    const listed = await world.api.connection(guest.id);
    assert.deepEqual([listed.userId, listed.namespace, listed.deviceId, time(listed.expiresAt)], [user, '/public', 'kiosk', exp * 1000]);
    if (guest.id !== connectionId) expectProblem(await world.api.request('GET', `/v1/connections/${segment(connectionId)}`), 404, 'GET of the guest that is no more');
    const stats = await world.api.stats();
    assert.deepEqual([stats.connections, stats.users], [before.connections + 1, before.users + 1], 'expected it to count once, as its user\'s');
    assert.deepEqual((await first.granted('devices')).connections.map((one) => one.id).sort(), [first.id, guest.id].sort());
    assert.equal((await guest.granted('devices')).connections.length, 2);

    assert.deepEqual(await world.api.send(user, 'news', 1, { namespace: '/public' }), { connections: 1, nodes: 1, unconfirmed: 0 });
    assert.deepEqual(await guest.wait('news'), [1]);
    assert.deepEqual((await world.api.ok('POST', '/v1/events', { messages: [{ connection: guest.id, event: 'direct', data: 2 }] })).results, [{ connections: 1, nodes: 1, unconfirmed: 0 }]);
    await guest.wait('direct');
    await world.api.ok('POST', '/v1/broadcast', { event: 'all', data: 3, namespace: '/public' });
    await guest.wait('all');
    assert.equal(guest.count('news'), 1);

    assert.deepEqual(await world.api.disconnect(user), { disconnected: 2, nodes: world.count, remaining: [] });
    await guest.kicked(4500);
    await first.kicked(4500);
    assert.equal((await world.api.user(user)).online, false);
  });

  test('authenticate: what comes after it is as for any connection of the user\'s', async () => {
    const user = someone('late');
    const guest = connect(world.door, { auth: {}, namespace: '/public', reconnection: false });
    await guest.ready();
    await guest.granted('authenticate', token(user, { exp: soon(3) }));
    await guest.wait('tokenExpiring');
    const { expiresAt } = await guest.granted('refreshToken', token(user, { exp: soon(4) }));
    assert.ok(expiresAt);
    await guest.sentAway(4001, 'Token expired');
    await eventually('nothing is listed of the user', async () => (await world.api.user(user)).online === false);
  });

  test('authenticate: a logged-out device that had been a guest ends with 4505', async () => {
    const user = someone('late');
    const own = await connected(world.desk, { user });
    const guest = connect(world.door, { auth: {}, namespace: '/public' });
    await guest.ready();
    const { connectionId } = await guest.granted('authenticate', token(user));
    assert.deepEqual(await own.ask('logoutDevice', connectionId), { ok: true });
    await guest.kicked(4505);
  });

  test('authenticate: a wrong token is denied in a connect error\'s words, and it stays a guest', async () => {
    const user = someone('wrong');
    const guest = connect(world.door, { auth: {}, namespace: '/public' });
    await guest.ready();
    await world.api.revokeToken(`jti-${user}`);
    for (const [given, messages] of [
      ['rubbish', 'Invalid token'],
      [null, 'Authentication token required'],
      [{}, 'Invalid token'],
      [token(user, {}, { secret: ANOTHER_SECRET }), 'Invalid token'],
      [token(user, { exp: soon(-60) }), 'Invalid or expired token'],
      [token(user, { jti: `jti-${user}` }), 'Token revoked'],
    ]) await guest.denied(messages, 'authenticate', given);
    const listed = await world.api.connection(guest.id);
    assert.deepEqual([listed.userId, listed.expiresAt], [null, null], 'expected it to be a guest still');
    assert.equal((await world.api.user(user)).online, false);
    assert.equal(guest.count('disconnect'), 0, guest.history());
    // And the right one is taken afterwards.
    assert.equal((await guest.granted('authenticate', token(user))).userId, user);
  });

  test('authenticate: of two users at once a guest becomes one, wholly', async () => {
    for (let round = 0; round < 10; round += 1) {
      const users = [someone('one'), someone('two')];
      const guest = connect(world.door, { auth: {}, namespace: '/public', reconnection: false });
      await guest.ready();
      const answers = await Promise.all(users.map((user) => guest.ask('authenticate', token(user))));
      const taken = answers.filter((answer) => answer.ok);
      assert.equal(taken.length, 1, JSON.stringify(answers));
      const [{ userId, connectionId }] = taken;
      const { connections } = await guest.granted('devices');
      assert.deepEqual(connections.map((one) => [one.userId, one.id]), [[userId, connectionId]]);
      for (const user of users) {
        await eventually(`${user} is ${user === userId ? '' : 'not '}there`, async () => (await world.api.user(user)).online === (user === userId));
      }
      guest.socket.disconnect();
      await eventually('it is gone', async () => !(await world.api.user(userId)).online);
    }
  });

  test('authenticate: nobody becomes another user', async () => {
    const [user, other] = [someone('first'), someone('second')];
    const guest = connect(world.door, { auth: {}, namespace: '/public' });
    await guest.ready();
    await guest.granted('authenticate', token(user));
    await guest.denied([], 'authenticate', token(other));
    assert.equal((await world.api.user(other)).online, false);
    assert.equal((await world.api.user(user)).connections.length, 1);
  });

  test('authenticate: ten at once for one user, and each counts once', async () => {
    const user = someone('crowd');
    const guests = Array.from({ length: 10 }, (_, i) => connect(i % 2 ? world.door : world.desk, { auth: {}, namespace: '/public', label: `guest ${i}` }));
    for (const guest of guests) await guest.ready();
    const ids = await Promise.all(guests.map(async (guest) => (await guest.granted('authenticate', token(user))).connectionId));
    assert.deepEqual((await world.api.user(user)).connections.map((one) => one.id).sort(), [...ids].sort());
    for (const [i, guest] of guests.entries()) if (ids[i] !== guest.id) assert.equal((await world.api.request('GET', `/v1/connections/${segment(guest.id)}`)).status, 404);
    assert.equal((await world.api.disconnect(user)).disconnected, 10);
    for (const guest of guests) await guest.kicked(4500);
  });
}, { env });
