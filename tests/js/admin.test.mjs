// Contract 2: the API's verbs as events of /admin, and that the caller's right is looked at anew each time.

import assert from 'node:assert/strict';
import { clockPasses, connect, connected, eventually, onBothRegistries, segment, someone, soon, startRedis, test, token } from './harness.mjs';
import { SESSION_SECRET, startExpress } from './support/express.mjs';

const NOT_BANNED = { banned: false, reason: null, until: null };

/** An administrator in /admin. */
const administrator = (at, { claims, ...options } = {}) =>
  connected(at, { user: someone('admin'), claims: { role: 'admin', ...claims }, namespace: '/admin', reconnection: false, label: 'the admin', ...options });

/** Every verb, with an argument that is all right for `user`. */
const verbs = (user) => [
  ['listUsers', {}],
  ['getUser', { user }],
  ['sendToUser', { user, event: 'x', data: 1 }],
  ['disconnectUser', { user }],
  ['banUser', { user }],
  ['unbanUser', { user }],
  ['revokeTokens', { user }],
];

/** Holds a client to having been refused a verb, and ended for it. */
async function unauthorized(client, asked) {
  // The connection may end before its acknowledgement: what matters is that there is no good one.
  const answer = await asked.catch((error) => ({ ok: false, error: error.message }));
  assert.equal(answer?.ok, false, `expected no good answer for an administrator who is none any more, got ${JSON.stringify(answer)}`);
  const [payload] = await client.wait('error');
  assert.deepEqual(payload, { message: 'Unauthorized action' });
  await client.wait('disconnect');
}

onBothRegistries((world) => {
  test('listUsers and getUser answer as the API does', async () => {
    const admin = await administrator(world.door);
    const user = someone('listed');
    const clients = [await connected(world.door, { user, deviceId: 'phone' }), await connected(world.desk, { user, deviceId: 'laptop' })];
    const { users, next } = await admin.granted('listUsers', {});
    assert.deepEqual({ users, next }, await world.api.ok('GET', '/v1/users'));
    assert.deepEqual(users.find((one) => one.userId === user), { userId: user, connections: 2, devices: 2 });
    const view = await admin.granted('getUser', { user });
    assert.deepEqual(view, await world.api.user(user));
    assert.deepEqual(view.connections.map((one) => one.id).sort(), clients.map((one) => one.id).sort());
    const nobody = await admin.granted('getUser', { user: someone('nobody') });
    assert.deepEqual([nobody.online, nobody.connections, nobody.banned], [false, [], false]);
  });

  test('listUsers in pages', async () => {
    const admin = await administrator(world.door);
    const users = Array.from({ length: 5 }, () => someone('paged'));
    for (const user of users) await connected(world.desk, { user });
    const seen = [];
    let cursor;
    for (let page = 0; page < 100; page += 1) {
      const answer = await admin.granted('listUsers', { limit: 2, ...(cursor && { cursor }) });
      seen.push(...answer.users.map((one) => one.userId));
      cursor = answer.next;
      if (!cursor) break;
    }
    for (const user of users) assert.equal(seen.filter((one) => one === user).length, 1, `expected ${user} once over all pages`);
    await admin.denied("the cursor is not one of this server's", 'listUsers', { cursor: 'made-up' });
  });

  test('sendToUser: to all of the user\'s devices, with acknowledgements if they are asked for', async () => {
    const admin = await administrator(world.door);
    const user = someone('sent');
    const clients = [await connected(world.door, { user }), await connected(world.desk, { user })];
    assert.deepEqual(await admin.granted('sendToUser', { user, event: 'news', data: { text: 'hi' } }), { connections: 2, nodes: world.count, unconfirmed: 0 });
    for (const client of clients) assert.deepEqual(await client.wait('news'), [{ text: 'hi' }]);
    assert.deepEqual(await admin.granted('sendToUser', { user, event: 'news', data: 1, namespace: '/public' }), { connections: 0, nodes: 0, unconfirmed: 0 });
    clients.forEach((client, i) => client.answer('ask', i));
    const { acks, missing } = await admin.granted('sendToUser', { user, event: 'ask', data: null, ack: { timeoutMs: 5000 } });
    assert.equal(missing, 0);
    assert.deepEqual(Object.fromEntries(acks.map((ack) => [ack.connectionId, ack.data])), Object.fromEntries(clients.map((client, i) => [client.id, i])));
  });

  test('disconnectUser: a promise as with the API, with its fields', async () => {
    const admin = await administrator(world.door);
    const user = someone('kicked');
    const clients = [await connected(world.door, { user }), await connected(world.desk, { user }), await connected(world.desk, { user })];
    assert.deepEqual(await admin.granted('disconnectUser', { user, reason: 'Account suspended', except: [clients[2].id] }), { disconnected: 2, nodes: world.count, remaining: [] });
    assert.deepEqual((await world.api.user(user)).connections.map((one) => one.id), [clients[2].id]);
    for (const client of clients.slice(0, 2)) await client.kicked(4500, 'Account suspended');
    assert.equal(clients[2].count('disconnect'), 0);
    const given = token(user);
    assert.equal((await admin.granted('disconnectUser', { user, revokeTokens: true })).disconnected, 1);
    await connect(world.desk, { token: given }).refused('Token revoked');
  });

  test('banUser and unbanUser', async () => {
    const admin = await administrator(world.door);
    const user = someone('banned');
    const client = await connected(world.desk, { user });
    const until = new Date(soon(600) * 1000).toISOString();
    const answer = await admin.granted('banUser', { user, reason: 'spam', until });
    assert.deepEqual([answer.banned, answer.reason, Date.parse(answer.until)], [true, 'spam', Date.parse(until)]);
    await client.kicked(4501, 'spam');
    await connect(world.desk, { user }).refused('User banned');
    const { disconnected, nodes, remaining, ...ban } = answer;
    assert.deepEqual({ disconnected, nodes, remaining }, { disconnected: 1, nodes: 1, remaining: [] });
    assert.deepEqual(await world.api.banOf(user), ban);
    assert.deepEqual(await admin.granted('unbanUser', { user }), NOT_BANNED);
    await connected(world.desk, { user });
  });

  test('revokeTokens', async () => {
    const admin = await administrator(world.door);
    const user = someone('revoked');
    const old = token(user, { iat: soon(-10) });
    const client = await connected(world.desk, { token: old });
    const answer = await admin.granted('revokeTokens', { user });
    assert.equal(answer.disconnected, 1);
    assert.ok(Date.parse(answer.revokedBefore) <= Date.now() + 1000);
    await client.kicked(4502);
    await connect(world.door, { token: old }).refused('Token revoked');
  });

  test('what is malformed is {ok: false, error}, does nothing, and ends nobody', async () => {
    const admin = await administrator(world.door);
    const user = someone('unharmed');
    const client = await connected(world.desk, { user });
    for (const verb of ['getUser', 'sendToUser', 'disconnectUser', 'banUser', 'unbanUser', 'revokeTokens']) {
      for (const argument of [{}, null, 4.5, true, '', [user], { user: '' }, { user: null }, { user: { id: user } }, { user: [user] }, { user: 4.5 }, { user, userId: user }]) await admin.denied([], verb, argument);
      for (const args of [[user, user], [user, { user }], [user, {}, {}], [{ user }, {}], [user, { unknown: true }]]) {
        if (verb === 'banUser' && args[1]?.unknown) continue;
        await admin.denied([], verb, ...args);
      }
      await admin.denied([], verb);
    }
    for (const [verb, argument] of [
      ['sendToUser', { user }],
      ['sendToUser', { user, event: '' }],
      ['sendToUser', { user, event: 'connect', data: 1 }],
      ['sendToUser', { user, event: 'x', data: 1, namespace: '/nowhere' }],
      ['disconnectUser', { user, code: 'x' }],
      ['sendToUser', { user, event: 'x'.repeat(257) }],
      ['disconnectUser', { user, unknown: true }],
      ['disconnectUser', { user, reason: 'x'.repeat(513) }],
      ['banUser', { user, reason: 'x'.repeat(513) }],
      ['banUser', { user, until: 'tomorrow' }],
      ['revokeTokens', { user, issuedBefore: 'now' }],
      ['listUsers', { limit: -1 }],
      ['listUsers', { cursor: 'rubbish' }],
    ]) await admin.denied([], verb, argument);
    await world.api.send(user, 'still', 1);
    await client.wait('still');
    assert.equal(client.count('disconnect'), 0, client.history());
    assert.deepEqual(await world.api.banOf(user), NOT_BANNED);
    await connected(world.door, { user });
    assert.equal(admin.count('disconnect'), 0, admin.history());
    await admin.granted('getUser', { user });
  });

  test('the user may be called userId, be a number, or go before an object with the rest', async () => {
    const admin = await administrator(world.door);
    const number = 4_000_000 + process.pid * 10 + (world.registry === 'redis' ? 1 : 0);
    const user = String(number);
    for (const args of [[user], [number], [{ userId: user }], [{ userId: number }], [{ user: number }], [user, {}], [user, null]]) {
      const view = await admin.granted('getUser', ...args);
      assert.equal(view.userId, user, `expected getUser(${JSON.stringify(args)}) to be about ${user}`);
    }
    const client = await connected(world.desk, { user, reconnection: false });
    for (const args of [[user, { event: 'news', data: 1 }], [number, { event: 'news', data: 1 }], [{ userId: user, event: 'news', data: 1 }]]) {
      assert.equal((await admin.granted('sendToUser', ...args)).connections, 1, JSON.stringify(args));
    }
    await client.wait('news', { nth: 3 });
    assert.equal((await admin.granted('disconnectUser', user, { code: 4003, reconnect: true })).disconnected, 1);
    await client.wait('disconnect');
    assert.deepEqual(client.told(), { code: 4003, reason: 'Reconnect requested', reconnect: true });
    const forEver = '9999-12-31T23:59:59Z';
    assert.equal((await admin.granted('banUser', user, { until: forEver })).until, forEver, 'as the API shows it');
    assert.equal((await admin.granted('banUser', number, { reason: 'spam' })).reason, 'spam');
    assert.deepEqual(await world.api.banOf(user), { banned: true, reason: 'spam', until: null });
    assert.deepEqual(await admin.granted('unbanUser', user), NOT_BANNED);
    assert.equal((await admin.granted('revokeTokens', user)).disconnected, 0);
    assert.ok((await admin.ask('disconnectUser', user, { code: 42 })).error.includes('code'));
    assert.ok((await admin.ask('getUser')).error.includes('user'));
  });

  test('a verb without an acknowledgement is carried out all the same', async () => {
    const admin = await administrator(world.door);
    const user = someone('kicked');
    const client = await connected(world.desk, { user });
    admin.socket.emit('disconnectUser', { user });
    await client.kicked(4500);
  });

  test('outside /admin the verbs do nothing, also for an administrator', async () => {
    const user = someone('unharmed');
    const target = await connected(world.desk, { user });
    for (const namespace of ['', '/public']) {
      const asker = await connected(world.door, { user: someone('asker'), claims: { role: 'admin' }, namespace });
      const asked = [];
      for (const [verb, argument] of verbs(user)) asker.socket.emit(verb, argument, (answer) => asked.push([verb, answer]));
      // Events of one client are served in order: when this has been answered, those before it have been seen.
      await asker.granted('devices');
      for (const [verb, answer] of asked) assert.notEqual(answer?.ok, true, `expected "${verb}" to be none of ${namespace || '/'}'s`);
    }
    await world.api.send(user, 'still', 1);
    await target.wait('still');
    assert.equal(target.count('disconnect'), 0);
    assert.deepEqual(await world.api.banOf(user), NOT_BANNED);
  });

  test('an administrator may disconnect, ban or revoke themselves, and ends by it', async () => {
    for (const [verb, code] of [['disconnectUser', 4500], ['banUser', 4501], ['revokeTokens', 4502]]) {
      const user = someone('admin');
      const admin = await administrator(world.door, { user, claims: { iat: soon(-10) } });
      admin.socket.emit(verb, { user }, () => {});
      await admin.kicked(code);
      await eventually('the administrator is out of the registry', async () => (await world.api.user(user)).online === false);
    }
  });

  test('an administrator whose token was revoked, or who was banned, does nothing more', async () => {
    for (const act of [(user) => world.api.revokeTokens(user), (user) => world.api.ban(user), (user) => world.api.revokeToken(user)]) {
      const [user, target] = [someone('admin'), someone('target')];
      const admin = await administrator(world.door, { user, claims: { jti: user, iat: soon(-10) } });
      const client = await connected(world.desk, { user: target });
      await act(user);
      const answer = await Promise.race([admin.ask('disconnectUser', { user: target }), admin.wait('disconnect')]).catch(() => undefined);
      assert.notEqual(answer?.ok, true, 'expected no verb to be carried out any more');
      await admin.wait('disconnect');
      await world.api.send(target, 'still', 1);
      await client.wait('still');
      assert.equal(client.count('disconnect'), 0);
    }
  });
});

// --- the right is looked at anew ----------------------------------------------------------------------------------------

onBothRegistries((world) => {
  test('a role that is gone from the session: "Unauthorized action", and the end, for every verb', async ({ owned }) => {
    const app = await startExpress({ redis: world.store });
    owned(app.stop);
    const target = someone('target');
    const client = await connected(world.desk, { user: target });
    for (const [verb, argument] of verbs(target)) {
      const browser = await app.browser().login({ userId: someone('admin'), role: 'admin' });
      const admin = await connected(world.door, { auth: {}, extraHeaders: { cookie: browser.cookie }, namespace: '/admin', reconnection: false, label: `the admin who asks "${verb}"` });
      await admin.granted('getUser', { user: target });
      await browser.change({ role: 'reader' });
      await unauthorized(admin, admin.ask(verb, argument));
      await eventually('the admin is out of the registry', async () => (await world.api.request('GET', `/v1/connections/${segment(admin.id)}`)).status === 404);
    }
    await world.api.send(target, 'still', 1);
    await client.wait('still');
    assert.equal(client.count('x'), 0, 'expected no verb to have been carried out');
    assert.equal(client.count('disconnect'), 0, client.history());
    assert.deepEqual(await world.api.banOf(target), NOT_BANNED);
  });

  test('a session that was logged out: "Unauthorized action", and the end', async ({ owned }) => {
    const app = await startExpress({ redis: world.store });
    owned(app.stop);
    const browser = await app.browser().login({ userId: someone('admin'), role: 'admin' });
    const admin = await connected(world.door, { auth: {}, extraHeaders: { cookie: browser.cookie }, namespace: '/admin', reconnection: false });
    await browser.logout();
    await unauthorized(admin, admin.ask('listUsers', {}));
  });
}, {
  // The verb itself has to find out: nobody looks at the session by itself for as long as these tests take.
  env: async (world) => {
    const env = { SWITCHBOARD_AUTH__SESSION__SECRETS: SESSION_SECRET, SWITCHBOARD_AUTH__SESSION__RECHECK: '1h' };
    world.store = world.redis;
    if (!world.store) {
      world.store = await startRedis();
      world.owned(() => world.store.stop());
      env.SWITCHBOARD_AUTH__SESSION__REDIS_URL = world.store.url;
    }
    return env;
  },
});

test('on a node that has not heard of the revocation a verb is refused all the same', { ms: 90000 }, async ({ node, redis, link }) => {
  const store = await redis();
  const wire = await link(store);
  const [near, far] = await Promise.all([node({ redis: store, name: 'near' }), node({ redis: wire, name: 'far' })]);
  const [user, target] = [someone('admin'), someone('target')];
  const given = token(user, { role: 'admin', iat: soon(-10) });
  const admin = await connected(far, { token: given, namespace: '/admin', reconnection: false });
  const client = await connected(near, { user: target });
  wire.mute();
  // It answers when the node has confirmed, or not at all in time; what is revoked is revoked before.
  const revoking = near.api.request('POST', `/v1/users/${segment(user)}/revoke-tokens`, { json: {} });
  await eventually('the token is good no more', async () => assert.equal(await connect(near, { token: given, namespace: '/admin' }).outcome(), 'Token revoked'), { every: 20 });
  const answer = await Promise.race([admin.ask('disconnectUser', { user: target }), admin.wait('disconnect')]).catch(() => undefined);
  assert.notEqual(answer?.ok, true, 'expected the verb not to be carried out');
  await admin.wait('disconnect', { ms: 15000 });
  wire.heal();
  await revoking;
  await near.api.send(target, 'still', 1);
  await client.wait('still');
  assert.equal(client.count('disconnect'), 0);
});

test('an administrator whose token has expired does nothing more', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_AUTH__JWT__LEEWAY: '0s' } });
  const exp = soon(5);
  const admin = await administrator(door, { claims: { exp } });
  await admin.granted('listUsers', {});
  await clockPasses(exp * 1000);
  // Its end is due at this very moment: the verb is refused, or comes too late.
  const answer = await Promise.race([admin.ask('listUsers', {}), admin.wait('disconnect')]).catch(() => undefined);
  assert.notEqual(answer?.ok, true, 'expected no verb to be carried out after exp');
  await admin.wait('disconnect');
});

test('with another set of namespaces /admin takes the verbs by whatever roles it asks for', async ({ node }) => {
  const door = await node({ config: '[[namespaces]]\npath = "/"\n\n[[namespaces]]\npath = "/admin"\nroles = ["chief"]\n' });
  const target = await connected(door, { user: someone('target') });
  await connect(door, { user: 'x', claims: { role: 'admin' }, namespace: '/admin' }).refused('Admin access required');
  const chief = await connected(door, { user: someone('chief'), claims: { role: 'chief' }, namespace: '/admin' });
  const { users } = await chief.granted('listUsers', {});
  assert.equal(users.length, 2);
  assert.equal(target.count('disconnect'), 0);
});
