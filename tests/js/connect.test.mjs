// Contract 2: who is let in, what the others are told, and what `ready` says.

import assert from 'node:assert/strict';
import jwt from 'jsonwebtoken';
import { connect, connected, eventually, onBothRegistries, JWT_SECRET, RawSocket, segment, someone, test, token } from './harness.mjs';

const past = () => Math.floor(Date.now() / 1000) - 60;
const unsigned = (claims) => `${[{ alg: 'none', typ: 'JWT' }, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')}.`;

onBothRegistries((world) => {
  const refusals = [
    ['no credentials at all', () => ({ auth: {} }), 'Authentication token required'],
    ['no auth object', () => ({ auth: undefined }), 'Authentication token required'],
    ['a token of null, as localStorage gives it to who never logged in', () => ({ auth: { token: null } }), 'Authentication token required'],
    ['an Authorization header of another scheme', () => ({ auth: {}, extraHeaders: { authorization: 'Basic dXNlcjpwYXNz' } }), 'Authentication token required'],
    ['a token in the query string', () => ({ auth: {}, query: { token: token('7') } }), 'Authentication token required'],
    ['text that is no token', () => ({ token: 'not-a-token' }), 'Invalid token'],
    ['a token of three empty parts', () => ({ token: '..' }), 'Invalid token'],
    ['a token that is a number', () => ({ auth: { token: 42 } }), 'Invalid token'],
    ['a token that is an object', () => ({ auth: { token: { sub: '7' } } }), 'Invalid token'],
    ['a token of another signer', () => ({ token: token('7', {}, { secret: 'another-secret-that-is-also-32-bytes-long' }) }), 'Invalid token'],
    ['a token with algorithm none', () => ({ token: unsigned({ sub: '7', exp: past() + 960 }) }), 'Invalid token'],
    ['a token whose last character was changed', () => ({ token: token('7').replace(/.{2}$/, (end) => (end === 'AA' ? 'BB' : 'AA')) }), 'Invalid token'],
    ['a token with white space around it', () => ({ token: ` ${token('7')}\n` }), 'Invalid token'],
    ['a token without exp', () => ({ token: jwt.sign({ sub: '7' }, JWT_SECRET) }), 'Invalid token'],
    ['a token without a user', () => ({ token: jwt.sign({ exp: past() + 960 }, JWT_SECRET) }), 'Invalid token'],
    ['a token that is not valid yet', () => ({ token: token('7', { nbf: past() + 660 }) }), 'Invalid token'],
    ['a token with a crit header', () => ({ token: token('7', {}, { header: { crit: ['x'], x: 1 } }) }), 'Invalid token'],
    ['a token of 100 KB', () => ({ token: `${'a'.repeat(100000)}.b.c` }), 'Invalid token'],
    ['an expired token', () => ({ token: token('7', { exp: past() }) }), 'Invalid or expired token'],
    ['an expired token of another signer', () => ({ token: token('7', { exp: past() }, { secret: 'another-secret-that-is-also-32-bytes-long' }) }), 'Invalid token'],
    ['a namespace that does not exist', () => ({ user: '7', namespace: '/nowhere' }), 'Invalid namespace'],
    ['/admin without credentials', () => ({ auth: {}, namespace: '/admin' }), 'Authentication token required'],
    ['/admin without a role', () => ({ user: '7', namespace: '/admin' }), 'Admin access required'],
    ['/admin with another role', () => ({ user: '7', claims: { role: 'editor' }, namespace: '/admin' }), 'Admin access required'],
    ['/admin with a role that begins alike', () => ({ user: '7', claims: { role: 'administrator' }, namespace: '/admin' }), 'Admin access required'],
    ['/admin with an expired token', () => ({ user: '7', claims: { role: 'admin', exp: past() }, namespace: '/admin' }), 'Invalid or expired token'],
  ];
  for (const [what, options, message] of refusals) {
    test(`${what} is refused with "${message}"`, async () => {
      await connect(world.door, { label: what, ...options() }).refused(message);
    });
  }

  test('refused handshakes leave nothing in the registry', async () => {
    const user = someone('refused');
    await connect(world.door, { user, claims: { exp: past() } }).refused('Invalid or expired token');
    assert.deepEqual((await world.api.user(user)).connections, [], 'expected a refused handshake to leave no connection');
  });

  test('a refusal in one namespace leaves the other namespaces of the transport alone', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    await client.join('/admin').refused('Admin access required');
    await world.api.send(user, 'still', 'here');
    assert.deepEqual(await client.wait('still'), ['here']);
  });

  for (const transport of ['websocket', 'polling']) {
    test(`a token in the Authorization header is taken (${transport})`, async () => {
      const user = someone('header');
      const client = connect(world.door, { auth: {}, extraHeaders: { authorization: `Bearer ${token(user)}` }, transports: [transport] });
      assert.equal((await client.ready()).userId, user, 'expected the user of the header\'s token');
    });
  }

  test('auth.token goes before the Authorization header, also when it is the bad one', async () => {
    const [first, second] = [someone('auth'), someone('header')];
    const extraHeaders = { authorization: `Bearer ${token(second)}` };
    const client = connect(world.door, { user: first, extraHeaders });
    assert.equal((await client.ready()).userId, first, 'expected the user of auth.token');
    await connect(world.door, { token: 'rubbish', extraHeaders }).refused('Invalid token');
  });

  test('ready is complete', async () => {
    const user = someone('ready');
    const exp = Math.floor(Date.now() / 1000) + 600;
    const client = connect(world.door, { user, claims: { exp, username: 'Ada', email: 'ada@example.com', role: 'editor' }, deviceId: 'phone' });
    const ready = await client.ready();
    assert.deepEqual(Object.keys(ready).sort(), ['connectionId', 'connections', 'devices', 'expiresAt', 'nodeId', 'role', 'userId', 'username'],
      'expected exactly the fields of the contract in "ready"');
    const { connectionId, expiresAt, ...rest } = ready;
    assert.deepEqual(rest, { userId: user, username: 'Ada', role: 'editor', nodeId: world.door.name, connections: 1, devices: 1 });
    assert.match(connectionId, /^\S{8,}$/, 'expected a connectionId worth the name');
    assert.match(expiresAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/, 'expected expiresAt as RFC 3339 in UTC');
    assert.equal(Date.parse(expiresAt), exp * 1000, 'expected expiresAt to be the token\'s exp');
  });

  test('ready comes once, and the connection is listed by then', async () => {
    const user = someone('once');
    const client = await connected(world.door, { user });
    const { connections } = await world.api.user(user);
    assert.deepEqual(connections.map((one) => one.id), [client.id], 'expected the connection to be listed when the client has "ready"');
    assert.deepEqual(await world.api.send(user, 'after', 1), { connections: 1, nodes: 1, unconfirmed: 0 });
    await client.wait('after');
    assert.equal(client.count('ready'), 1, `expected "ready" once; history: ${client.history()}`);
  });

  test('connections and devices count what the user has, the new one included', async () => {
    const user = someone('devices');
    const seen = [];
    for (const deviceId of ['phone', 'phone', 'laptop', undefined, undefined]) {
      const client = connect(world.door, { user, deviceId });
      const { connections, devices } = await client.ready();
      seen.push([connections, devices]);
    }
    assert.deepEqual(seen, [[1, 1], [2, 1], [3, 2], [4, 3], [5, 4]],
      'expected [connections, devices] after phone, phone, laptop, unnamed, unnamed: an unnamed one is a device of its own');
  });

  const identities = [
    ['sub as text', { sub: 'a' }, 'a'],
    ['sub as a number', { sub: 42 }, '42'],
    ['a large number', { sub: 9007199254740991 }, '9007199254740991'],
    ['id', { id: 7 }, '7'],
    ['userId', { userId: 'u-9' }, 'u-9'],
    ['sub before id before userId', { sub: 's', id: 'i', userId: 'u' }, 's'],
    ['id before userId', { id: 'i', userId: 'u' }, 'i'],
  ];
  for (const [what, claims, userId] of identities) {
    test(`the user is taken from ${what}`, async () => {
      const exp = Math.floor(Date.now() / 1000) + 600;
      // jsonwebtoken would refuse a numeric `sub` in an object payload; as JSON text it goes through.
      const signed = jwt.sign(JSON.stringify({ ...claims, exp }), JWT_SECRET, { header: { alg: 'HS256', typ: 'JWT' } });
      assert.strictEqual((await connect(world.door, { token: signed }).ready()).userId, userId);
    });
  }

  for (const claims of [{ role: 'admin' }, { roles: ['editor', 'admin'] }]) {
    test(`/admin lets ${JSON.stringify(claims)} in`, async () => {
      const user = someone('admin');
      const client = await connected(world.door, { user, claims, namespace: '/admin' });
      assert.equal((await world.api.connection(client.id)).namespace, '/admin');
    });
  }

  for (const algorithm of ['HS384', 'HS512']) {
    test(`a secret also verifies ${algorithm}`, async () => {
      const user = someone(algorithm);
      assert.equal((await connect(world.door, { token: token(user, {}, { algorithm }) }).ready()).userId, user);
    });
  }

  test('/public lets guests in', async () => {
    const client = connect(world.door, { auth: {}, namespace: '/public' });
    const ready = await client.ready();
    assert.equal(ready.userId, null, 'expected userId null for a guest');
    assert.equal(ready.expiresAt, null, 'expected expiresAt null for a guest');
    assert.equal(ready.connections, 1, 'expected a guest to have itself');
    const listed = await world.api.connection(client.id);
    assert.equal(listed.userId, null, 'expected a guest\'s connection to have no user');
    assert.equal(listed.namespace, '/public');
  });

  test('/public recognises a valid token', async () => {
    const user = someone('known');
    const client = connect(world.door, { user, namespace: '/public' });
    assert.equal((await client.ready()).userId, user);
    assert.deepEqual((await world.api.user(user)).connections.map((one) => [one.id, one.namespace]), [[client.id, '/public']]);
  });

  test('auth as a function is asked at every connect', async () => {
    const user = someone('function');
    const given = [];
    const auth = (answer) => {
      given.push(token(user, { username: `call-${given.length + 1}` }));
      answer({ token: given.at(-1) });
    };
    const client = connect(world.door, { auth, reconnectionDelay: 50 });
    assert.equal((await client.ready()).username, 'call-1');
    await world.api.disconnect(user, { code: 4003, reconnect: true });
    assert.equal((await client.ready({ nth: 2 })).username, 'call-2', 'expected the second connect to use the second token');
  });

  test('a second namespace on the same transport is a connection of its own', async () => {
    const user = someone('two');
    const client = await connected(world.door, { user });
    const other = client.join('/public');
    const { connections, devices } = await other.ready();
    assert.notEqual(other.id, client.id, 'expected another connectionId in another namespace');
    assert.equal(connections, 2, 'expected two connections');
    assert.equal(devices, 2, 'expected connections that name no device to count one each');
    const listed = (await world.api.user(user)).connections.map((one) => one.namespace).sort();
    assert.deepEqual(listed, ['/', '/public']);
  });

  test('a Connection shows what the contract lists', async () => {
    const user = someone('shown');
    const before = Date.now() - 1000;
    // As long as those of telephones are.
    const userAgent = 'Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1';
    const client = await connected(world.door, { user, deviceId: 'tablet', extraHeaders: { 'user-agent': userAgent } });
    const listed = await world.api.connection(client.id);
    assert.deepEqual(Object.keys(listed).sort(),
      ['connectedAt', 'deviceId', 'expiresAt', 'id', 'namespace', 'nodeId', 'remoteAddr', 'rooms', 'transport', 'userAgent', 'userId']);
    const { connectedAt, expiresAt, remoteAddr, ...rest } = listed;
    assert.deepEqual(rest, { id: client.id, userId: user, namespace: '/', nodeId: world.door.name, transport: 'websocket', deviceId: 'tablet', userAgent, rooms: [] });
    assert.ok(Date.parse(connectedAt) >= before && Date.parse(connectedAt) <= Date.now() + 1000, `expected connectedAt to be about now, got ${connectedAt}`);
    assert.ok(Date.parse(expiresAt) > Date.now(), `expected expiresAt in the future, got ${expiresAt}`);
    assert.match(remoteAddr, /^127\.0\.0\.1(:\d+)?$/, 'expected the client\'s address');
    assert.deepEqual((await world.api.user(user)).connections, [listed], 'expected the user\'s list to show the same Connection');
  });

  test('a client that disconnects by itself is out of the registry', async () => {
    const user = someone('leaver');
    const client = await connected(world.door, { user });
    client.socket.disconnect();
    await eventually('the connection of a client that left is gone from the registry', async () => {
      const view = await world.api.user(user);
      assert.deepEqual([view.online, view.connections.length], [false, 0]);
      assert.equal((await world.api.request('GET', `/v1/connections/${segment(client.id)}`)).status, 404);
    });
  });

  test('a client that leaves one namespace keeps the other', async () => {
    const user = someone('half');
    const client = await connected(world.door, { user });
    const other = client.join('/public');
    await other.ready();
    client.socket.disconnect();
    await eventually('only the connection in /public is left', async () => {
      assert.deepEqual((await world.api.user(user)).connections.map((one) => one.id), [other.id]);
    });
    await world.api.send(user, 'left', 1, { namespace: '/public' });
    await other.wait('left');
  });

  test('an event that the client sends right after CONNECT does no harm', async () => {
    const user = someone('eager');
    const client = connect(world.door, { user });
    client.socket.emit('whatever', 1);
    await client.ready();
    await world.api.send(user, 'fine', true);
    await client.wait('fine');
  });

  test('a CONNECT packet whose payload is not JSON is not let in', async () => {
    const raw = await new RawSocket(world.door.url).open();
    raw.ws.send('40{"token":');
    const outcome = await Promise.race([raw.closed.then(() => 'closed'), raw.until(/^44/).then(() => 'refused')]);
    assert.ok(['closed', 'refused'].includes(outcome));
    assert.ok(!raw.packets.some((packet) => String(packet).startsWith('40')), 'expected no CONNECT answer to a broken CONNECT');
  });
});
