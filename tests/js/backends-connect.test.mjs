// A backend decides who is let in, and who it is.

import assert from 'node:assert/strict';
import { API_KEY, connect, connected, eventually, expectProblem, onBothRegistries, someone, test, token } from './harness.mjs';
import { calling, startBackend } from './support/backend.mjs';

/** Settings of a node that asks a backend about all newcomers. */
const asking = async (world) => {
  const backend = await startBackend();
  world.backend = backend;
  world.owned(() => backend.stop());
  const settings = calling({ url: backend.url, connect: true, events: ['who'], timeout: '700ms', forward_headers: ['X-Tenant', 'Cookie', 'Authorization'] });
  return { ...settings, SWITCHBOARD_AUTH__JWT__LEEWAY: '0s' };
};
const NAMESPACES = `
[[namespaces]]
path = "/"
[[namespaces]]
path = "/public"
auth = "none"
[[namespaces]]
path = "/admin"
roles = ["admin"]
[[namespaces]]
path = "/own"
auth = "backend"
[[namespaces]]
path = "/staff"
auth = "backend"
roles = ["staff"]
`;

onBothRegistries((world) => {
  const asked = (userId) => world.backend.calls.filter(({ type, data }) => type === 'connection.connect' && data.userId === userId);

  test('a backend is asked before a connection is let in, and is told all but the token', async () => {
    const user = someone('asked');
    let listed;
    world.backend.on('connection.connect', async ({ userId }) => {
      listed = (await world.api.user(userId)).connections;
      return { allow: true, username: 'Ann', role: 'editor' };
    });
    const claims = { username: 'ann', role: 'user', plan: 'gold' };
    const sent = token(user, claims);
    const client = connect(world.door, { auth: { token: sent, deviceId: 'phone', theme: 'dark' }, extraHeaders: { 'x-tenant': 't1', 'user-agent': 'tests/1', authorization: `Bearer ${sent}`, cookie: 'a=1' } });
    const ready = await client.ready();
    assert.deepEqual(listed, [], 'expected it not to be in the registry yet');
    assert.deepEqual([ready.userId, ready.username, ready.role], [user, 'Ann', 'editor']);
    const [call] = asked(user);
    const { claims: told, remoteAddr, ...rest } = call.data;
    assert.deepEqual(rest, { namespace: '/', userId: user, username: 'ann', role: 'user', deviceId: 'phone', userAgent: 'tests/1', auth: { deviceId: 'phone', theme: 'dark' }, headers: { 'x-tenant': 't1', cookie: 'a=1' } });
    assert.deepEqual([remoteAddr, told.sub, told.plan], ['127.0.0.1', user, 'gold']);
    assert.ok(!JSON.stringify(call).includes(sent.split('.')[2]), 'expected no token in the call');
    assert.deepEqual(world.backend.wrong, []);
    // What the backend has given stays when the token is refreshed, and is who handlers and backends see.
    await client.granted('refreshToken', token(user, claims));
    assert.equal((await world.api.ok('POST', '/v1/events', { messages: [{ room: 'role:editor', event: 'hi' }] })).results[0].connections, 1);
    await client.wait('hi');
  });

  test('a connection is in the rooms that the backend names, from the first moment and after a refresh', async () => {
    const user = someone('roomy');
    world.backend.on('connection.connect', () => ({ allow: true, rooms: ['lobby', 'user:1', 'claimed'] }));
    const rooms = async (client) => (await world.api.ok('GET', `/v1/connections/${client.id}`)).rooms;
    const client = await connected(world.door, { user, claims: { rooms: ['claimed', 'more'] } });
    assert.deepEqual(await rooms(client), ['claimed', 'lobby', 'more']);
    await client.granted('refreshToken', token(user, { rooms: ['other'] }));
    assert.deepEqual(await rooms(client), ['claimed', 'lobby', 'other']);
    const guest = await connected(world.door, { namespace: '/public' });
    assert.deepEqual(await rooms(guest), ['claimed', 'lobby']);
  });

  test('what the backend notes is shown by the API and to backends, and never to clients', async () => {
    const [user, boss] = [someone('noted'), someone('boss')];
    const meta = { tenant: 't1', list: [1, null] };
    world.backend.on('connection.connect', ({ userId }) => ({ allow: true, ...(userId === user && { meta }) }));
    const client = await connected(world.door, { user });
    await client.granted('refreshToken', token(user));
    assert.deepEqual((await world.api.ok('GET', `/v1/connections/${client.id}`)).meta, meta);
    assert.deepEqual((await world.api.user(user)).connections[0].meta, meta);
    await client.ask('who');
    assert.deepEqual(world.backend.of('who').at(-1).connection.meta, meta);
    const { connections } = await client.granted('devices');
    assert.deepEqual([connections.length, 'meta' in connections[0]], [1, false]);
    const admin = await connected(world.door, { user: boss, claims: { role: 'admin' }, namespace: '/admin' });
    const seen = await admin.granted('getUser', { user });
    assert.deepEqual([seen.connections.length, 'meta' in seen.connections[0]], [1, false]);
    assert.ok(!('meta' in (await world.api.user(boss)).connections[0]));
  });

  test('a refusal is the connect_error with its message, and final', async () => {
    world.backend.on('connection.connect', () => ({ allow: false, message: 'Not today' }));
    await connect(world.door, { user: someone('refused') }).refused('Not today');
    world.backend.on('connection.connect', () => ({ allow: false }));
    await connect(world.door, { user: someone('refused') }).refused('Access denied');
    // Bad credentials never get so far.
    const before = world.backend.calls.length;
    await connect(world.door, { token: 'x.y.z' }).refused('Invalid token');
    assert.equal(world.backend.calls.length, before);
  });

  test('without an answer the transport is closed, and the client comes again by itself', async () => {
    const user = someone('again');
    const answers = [(response) => response.writeHead(500).end(), (response) => response.end('{}'), (response) => response.end('<'), () => {}];
    world.backend.on('connection.connect', () => answers.shift() ?? { allow: true });
    const client = connect(world.door, { user, reconnectionDelay: 10, reconnectionDelayMax: 20 });
    await client.ready();
    assert.equal(client.count('connect_error'), 0, client.history());
    assert.equal(asked(user).length, 5);
  });

  test('a namespace that joins an open transport waits for the backend, and the others stay', async () => {
    const user = someone('joiner');
    world.backend.on('connection.connect', () => ({ allow: true }));
    const client = await connected(world.door, { user });
    let times = 0;
    world.backend.on('connection.connect', () => ((times += 1) === 1 ? (response) => response.destroy() : { allow: true }));
    const guest = client.join('/public', { auth: {} });
    await guest.ready();
    assert.deepEqual([times, client.count('disconnect')], [2, 0]);
  });

  test('a guest who says who it is is asked about as that user', async () => {
    const [user, barred] = [someone('named'), someone('barred')];
    world.backend.on('connection.connect', ({ userId }) => ({ allow: userId !== barred, message: 'Not you', username: 'Named' }));
    const guest = await connected(world.door, { namespace: '/public', auth: { token: 'x.y.z', more: 1 } });
    const call = world.backend.calls.at(-1);
    assert.deepEqual([call.data.userId, call.data.claims, call.data.auth], [null, null, { more: 1 }]);
    await guest.denied('Not you', 'authenticate', token(barred));
    const { username } = await guest.granted('authenticate', token(user));
    assert.equal(username, 'Named');
    assert.deepEqual([asked(barred).length, asked(user).length], [1, 1]);
  });

  test('with auth = "backend" the backend decides who it is, whatever the credentials', async () => {
    const [user, end] = [someone('own'), new Date(Date.now() + 3600_000).toISOString()];
    world.backend.on('connection.connect', ({ auth, headers }) => {
      if (auth.ticket !== 'good') return { allow: false, message: 'No ticket' };
      return { allow: true, userId: user, username: headers['x-name'], role: auth.role, expiresAt: end };
    });
    const own = (auth, more = {}) => connect(world.door, { namespace: '/own', auth, ...more });
    await own({ ticket: 'bad' }).refused('No ticket');
    const client = own({ ticket: 'good', role: 'editor', token: 'of-the-application' });
    const ready = await client.ready();
    assert.deepEqual([ready.userId, ready.role, Date.parse(ready.expiresAt)], [user, 'editor', Date.parse(end)]);
    const { data } = world.backend.calls.at(-1);
    assert.deepEqual([data.userId, data.claims, data.auth.token], [null, null, 'of-the-application']);
    assert.equal((await world.api.user(user)).connections.length, 1);
    assert.equal((await world.api.send(user, 'hi', 1, { namespace: '/own' })).connections, 1);
    await client.wait('hi');
    // No token renews it or makes it somebody else, and the namespace's roles hold.
    await client.denied('Invalid token', 'refreshToken', token(user));
    const staff = (role) => connect(world.door, { namespace: '/staff', auth: { ticket: 'good', role } });
    await staff('user').refused('Access denied');
    await staff('staff').ready();
    // Bans and revocations hold as for anybody.
    await world.api.ban(user);
    await client.kicked(4501);
    await own({ ticket: 'good' }).refused('User banned');
    await world.api.unban(user);
    const back = own({ ticket: 'good' });
    await back.ready();
    await world.api.revokeTokens(user);
    await back.kicked(4502);
    await eventually('the backend lets it in again', async () => (await own({ ticket: 'good' }).outcome()) === 'ready');
  });

  test('an identity that a backend gives for a while ends then, and one that is over lets nobody in', async () => {
    const user = someone('brief');
    world.backend.on('connection.connect', ({ auth: { seconds } }) => ({ allow: true, userId: user, expiresAt: new Date(Date.now() + seconds * 1000).toISOString() }));
    const client = connect(world.door, { namespace: '/own', auth: { seconds: 1 }, reconnection: false });
    await client.ready();
    await client.sentAway(4001, 'Token expired');
    await connect(world.door, { namespace: '/own', auth: { seconds: -1 } }).refused('Invalid or expired token');
  });

  test('an answer without a user is no answer where the backend decides', async () => {
    const answers = [{ allow: true }, { allow: true, userId: '..' }];
    world.backend.on('connection.connect', () => answers.shift() ?? { allow: true, userId: 'somebody' });
    const client = connect(world.door, { namespace: '/own', reconnectionDelay: 10, reconnectionDelayMax: 20 });
    assert.equal((await client.ready()).userId, 'somebody');
    assert.equal(answers.length, 0);
  });
}, { env: asking, config: NAMESPACES });

test('where a backend decides who comes into /admin, a token opens nothing of the API', async ({ node, owned }) => {
  const backend = await startBackend();
  owned(() => backend.stop());
  const config = '[[namespaces]]\npath = "/"\n[[namespaces]]\npath = "/admin"\nauth = "backend"\n';
  const door = await node({ env: calling({ url: backend.url, connect: true }), config });
  for (const claims of [{}, { role: 'admin' }]) {
    const answer = await door.api.request('GET', '/v1/stats', { key: token(someone('bearer'), claims) });
    expectProblem(answer, 401, 'a token');
  }
  assert.equal((await door.api.request('GET', '/v1/stats', { key: API_KEY })).status, 200);
});
