// Contract 2, 3a and 10: a device is its user's, rooms follow the identity, and nobody has an id that no URL can name.

import assert from 'node:assert/strict';
import { connect, connected, expectProblem, onBothRegistries, runBinary, JWT_SECRET, segment, someone, test, token } from './harness.mjs';

const NOBODY = { connections: 0, nodes: 0 };
const counts = ({ connections, nodes }) => ({ connections, nodes });

onBothRegistries((world) => {
  /** Sends to rooms of a namespace; resolves to how many connections each reached. */
  const reach = async (...rooms) => {
    const { results } = await world.api.ok('POST', '/v1/events', { messages: rooms.map((room) => ({ room, event: 'to-room', data: room })) });
    return results.map(({ connections, error }) => error?.code ?? connections);
  };

  test('a device is addressed by its user alone: others and guests that claim its id get nothing', async () => {
    const [user, thief] = [someone('owner'), someone('thief')];
    const device = `phone-${user}`;
    const [near, far, other, stolen, nested, guest] = await Promise.all([
      connected(world.desk, { user, deviceId: device }),
      connected(world.door, { user, deviceId: device }),
      connected(world.door, { user, deviceId: `${device}-2` }),
      connected(world.door, { user: thief, deviceId: device }),
      connected(world.door, { user: thief, deviceId: `${user}:${device}` }),
      connected(world.door, { auth: { deviceId: device }, namespace: '/public' }),
    ]);
    const sent = await world.api.send(user, 'mine', 1, { device });
    assert.deepEqual(counts(sent), { connections: 2, nodes: world.count });
    for (const client of [near, far]) assert.deepEqual(await client.wait('mine'), [1]);
    for (const client of [near, far]) client.answer('asked', 'yes');
    const acked = await world.api.send(user, 'asked', null, { device, ack: { timeoutMs: 5000 } });
    assert.equal(acked.connections, 2);
    assert.deepEqual(acked.acks.map(({ connectionId, data }) => [connectionId, data]).sort(), [near, far].map(({ id }) => [id, 'yes']).sort());

    const { results } = await world.api.ok('POST', '/v1/events', { messages: [
      { user, device, event: 'bulk', data: 1 },
      { user, device: 'of-nobody', event: 'bulk', data: 2 },
      { user: thief, device: `${device}-2`, event: 'bulk', data: 3 },
      { user, event: 'all', data: 4 },
      { room: `device:${device}`, event: 'room' },
      { room: `device:${user}:${device}`, event: 'room' },
      { room: 'device:', event: 'room', namespace: '/public' },
      { device, event: 'room' },
      { connection: near.id, device, event: 'room' },
    ] });
    assert.deepEqual(results.slice(0, 4).map(counts), [{ connections: 2, nodes: world.count }, NOBODY, NOBODY, { connections: 3, nodes: world.count }]);
    assert.deepEqual(results.slice(4).map(({ error }) => error?.code), Array(5).fill('invalid_target'));
    for (const client of [near, far, other]) await client.wait('all');
    assert.deepEqual(counts(await world.api.send(user, 'mine', 1, { device, namespace: '/public' })), NOBODY, 'a guest of that device');

    for (const client of [other, stolen, nested, guest]) {
      for (const event of ['mine', 'asked', 'bulk', 'room']) assert.equal(client.count(event), 0, `${client.label}: ${client.history()}`);
    }
    for (const client of [near, far]) assert.deepEqual([client.count('bulk'), client.count('room')], [1, 0], client.history());
    for (const bad of ['', 'x'.repeat(129)]) {
      expectProblem(await world.api.request('POST', `/v1/users/${user}/events`, { json: { event: 'x', device: bad } }), 422, `the device ${JSON.stringify(bad)}`);
    }
    for (const bad of [null, 7, [device]]) {
      expectProblem(await world.api.request('POST', `/v1/users/${user}/events`, { json: { event: 'x', device: bad } }), 400, `the device ${JSON.stringify(bad)}`);
    }
  });

  test('sendToUser takes a device', async () => {
    const user = someone();
    const admin = await connected(world.desk, { user: someone('admin'), claims: { role: 'admin' }, namespace: '/admin' });
    const [phone, laptop] = await Promise.all(['phone', 'laptop'].map((deviceId) => connected(world.door, { user, deviceId })));
    assert.deepEqual(counts(await admin.granted('sendToUser', { user, device: 'phone', event: 'x', data: 1 })), { connections: 1, nodes: 1 });
    await phone.wait('x');
    phone.answer('asked', 'phone');
    const { acks } = await admin.granted('sendToUser', { user, device: 'phone', event: 'asked', data: 1, ack: { timeoutMs: 5000 } });
    assert.deepEqual(acks.map(({ data }) => data), ['phone']);
    await admin.denied([], 'sendToUser', { user, device: '', event: 'x', data: 1 });
    await admin.denied([], 'sendToUser', { user, device: null, event: 'x', data: 1 });
    assert.deepEqual([phone.count('x'), laptop.count('x'), laptop.count('asked')], [1, 0, 0]);
  });

  test('refreshToken leaves the rooms of the old roles and joins those of the new', async () => {
    const user = someone('promoted');
    const role = (name) => `${name}-${user}`;
    const rooms = [`user:${user}`, ...['cashier', 'manager', 'auditor'].map((name) => `role:${role(name)}`)];
    const client = await connected(world.door, { token: token(user, { roles: [role('cashier'), role('auditor')] }) });
    const bystander = await connected(world.door, { token: token(someone(), { role: role('cashier') }) });
    assert.deepEqual(await reach(...rooms), [1, 2, 0, 1]);
    await client.granted('refreshToken', token(user, { roles: [role('manager'), role('auditor')] }));
    assert.deepEqual(await reach(...rooms), [1, 1, 1, 1]);
    await client.granted('refreshToken', token(user));
    assert.deepEqual(await reach(...rooms), [1, 1, 0, 0]);
    await client.denied([], 'refreshToken', token('somebody-else', { role: role('manager') }));
    assert.deepEqual(await reach(...rooms), [1, 1, 0, 0], 'a refusal changes no room');
    await client.granted('refreshToken', token(user, { role: role('cashier') }));
    assert.deepEqual(await reach(...rooms), [1, 2, 0, 0]);
    await bystander.wait('to-room', { nth: 5 });
    await client.wait('to-room', { nth: 10 });
    const got = client.seen.filter(({ name }) => name === 'to-room').map(({ args }) => args[0]);
    assert.deepEqual(got, [0, 1, 3, 0, 2, 3, 0, 0, 0, 1].map((at) => rooms[at]));
  });

  test("a guest that says who it is joins the rooms of its roles, and a later token's take their place", async () => {
    const user = someone('guest');
    const rooms = [`user:${user}`, `role:a-${user}`, `role:b-${user}`];
    const inPublic = async () => {
      const { results } = await world.api.ok('POST', '/v1/events', { messages: rooms.map((room) => ({ room, event: 'x', namespace: '/public' })) });
      return results.map(({ connections }) => connections);
    };
    const guest = await connected(world.door, { auth: { deviceId: user }, namespace: '/public' });
    assert.deepEqual(await inPublic(), [0, 0, 0]);
    await guest.granted('authenticate', token(user, { role: `a-${user}` }));
    assert.deepEqual(await inPublic(), [1, 1, 0]);
    assert.deepEqual(counts(await world.api.send(user, 'x', 1, { namespace: '/public', device: user })), { connections: 1, nodes: 1 }, 'its device is its user\'s now');
    await guest.granted('refreshToken', token(user, { role: `b-${user}` }));
    assert.deepEqual(await inPublic(), [1, 0, 1]);
  });

  test('users . and .. are refused at the door and by the API', async () => {
    for (const user of ['.', '..']) {
      for (const claims of [{}, { role: 'admin' }]) await connect(world.door, { token: token(user, claims) }).refused('Invalid token');
      const guest = await connected(world.door, { auth: {}, namespace: '/public' });
      await guest.denied('Invalid token', 'authenticate', token(user));
      const client = await connected(world.door, { user: someone() });
      await client.denied('Invalid token', 'refreshToken', token(user));
      expectProblem(await world.api.request('GET', '/v1/stats', { key: token(user, { role: 'admin' }) }), 401, `a token of ${user}`);

      for (const [method, path, json] of [
        ['GET', `/v1/users/${segment(user)}`],
        ['POST', `/v1/users/${segment(user)}/events`, { event: 'x' }],
        ['POST', `/v1/users/${segment(user)}/disconnect`, {}],
        ['PUT', `/v1/users/${segment(user)}/ban`, {}],
        ['POST', `/v1/users/${segment(user)}/revoke-tokens`, {}],
        ['POST', `/v1/users/${segment(user)}/sessions`, {}],
        ['POST', '/v1/presence', { users: ['1', user] }],
      ]) {
        const answer = await world.api.request(method, path, { json });
        expectProblem(answer, 422, `${method} ${path}`);
        assert.equal(answer.json.code, 'invalid_user');
      }
      const { results } = await world.api.ok('POST', '/v1/events', { messages: [{ user, event: 'x' }, { user: '1', event: 'x' }] });
      assert.deepEqual(results.map(({ error }) => error?.code), ['invalid_user', undefined]);
      const admin = await connected(world.door, { user: someone('admin'), claims: { role: 'admin' }, namespace: '/admin' });
      assert.match(await admin.denied([], 'banUser', { user }), /user: .*\.\./);
    }
    for (const user of ['...', '.a', 'a.']) await connected(world.door, { user: `${user}` });
  });
});

test('switchboard token says why it signs for no user . or ..', async () => {
  for (const user of ['.', '..']) {
    const { code, stdout, stderr } = await runBinary(['token', '--user', user], { env: { SWITCHBOARD_JWT_SECRET: JWT_SECRET } });
    assert.equal(code, 1, stderr);
    assert.equal(stdout, '');
    assert.match(stderr, /user: an id has 1 to 1024 bytes, and is not \. or \.\., which no URL can name/);
  }
});
