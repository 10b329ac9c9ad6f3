// The client code that the lesson "Authentication in Socket.io" teaches, run as it stands against a node.

import assert from 'node:assert/strict';
import jwt from 'jsonwebtoken';
import { io } from 'socket.io-client';
import { after, before, Client, connect, describe, eventually, Jar, JWT_SECRET, onBothRegistries, someone, soon, startNode, startRedis, test } from './harness.mjs';
import { SESSION_SECRET, startExpress } from './support/express.mjs';

const SENDING = `
// Get token from localStorage or cookie
const token = localStorage.getItem('authToken');
const socket = io('http://localhost:3000', { auth: { token: token } });
// Handle authentication errors
socket.on('connect_error', (error) => {
  if (error.message === 'Invalid token') {
    alert('Authentication failed. Please log in again.');
    // Redirect to login page
    window.location.href = '/login';
  }
});
`;

const REFRESHING = `
let socket;
function connectWithToken(token) {
  socket = io('http://localhost:3000', { auth: { token: token } });
  socket.on('connect_error', async (error) => {
    if (error.message === 'Invalid or expired token') {
      // Try to refresh token
      const newToken = await refreshAuthToken();
      if (newToken) {
        socket.auth.token = newToken;
        socket.connect(); // Retry connection
      } else {
        // Redirect to login
        window.location.href = '/login';
      }
    }
  });
}
async function refreshAuthToken() {
  const response = await fetch('/api/refresh-token', { method: 'POST', credentials: 'include' });
  if (response.ok) {
    const data = await response.json();
    localStorage.setItem('authToken', data.token);
    return data.token;
  }
  return null;
}
connectWithToken(localStorage.getItem('authToken'));
`;

/** What the lesson's server expects in a token: id, username, email, role. */
const sign = (claims, options = { expiresIn: '15m' }) => jwt.sign({ username: 'ada', email: 'ada@example.com', role: 'user', ...claims }, JWT_SECRET, options);

/**
 * As much of a browser as the snippets touch. The one thing that is not as it stands is the port. With a `jar`, `fetch` goes
 * to the node with its cookies; without one it gives what `refreshed` says. A `cookie` goes along with the handshake, as a
 * browser sends it.
 */
function page(node, code, authToken, { refreshed, jar, cookie } = {}) {
  const storage = new Map(authToken === null ? [] : [['authToken', authToken]]);
  const seen = { alerts: [], fetched: [], storage, window: { location: { href: '/chat' } }, clients: [] };
  const names = {
    io(url, options) {
      assert.equal(url, 'http://localhost:3000');
      const socket = io(node.url, { ...options, forceNew: true, ...(cookie && { extraHeaders: { cookie, origin: node.url } }) });
      seen.clients.push(new Client(socket, 'the lesson\'s client'));
      return socket;
    },
    localStorage: { getItem: (key) => storage.get(key) ?? null, setItem: (key, value) => storage.set(key, value) },
    alert: (text) => seen.alerts.push(text),
    window: seen.window,
    fetch: async (url, options) => {
      seen.fetched.push([url, options]);
      if (jar) return jar.fetch(node.url)(url, options);
      return { ok: refreshed !== undefined, json: async () => ({ token: refreshed }) };
    },
  };
  new Function(...Object.keys(names), code)(...Object.values(names));
  [seen.client] = seen.clients;
  return seen;
}

describe('the lesson', () => {
  let node;
  before(async () => {
    node = await startNode({ name: 'lesson' });
  });
  after(() => node?.kill());

  test('"Client-Side Token Sending": a good token connects', async () => {
    const { client, alerts, window } = page(node, SENDING, sign({ id: 7 }));
    const ready = await client.ready();
    assert.deepEqual([ready.userId, ready.username, ready.role], ['7', 'ada', 'user'], 'expected id, username and role of the lesson\'s token');
    assert.deepEqual([alerts, window.location.href], [[], '/chat']);
  });

  test('"Client-Side Token Sending": userId is taken as well, as in "Middleware Authentication"', async () => {
    const { client } = page(node, SENDING, sign({ userId: 'u-1' }));
    assert.equal((await client.ready()).userId, 'u-1');
  });

  test('"Client-Side Token Sending": a bad token leads to the login page', async () => {
    const { client, alerts, window } = page(node, SENDING, 'not-a-token');
    await client.refused('Invalid token');
    assert.deepEqual([alerts, window.location.href], [['Authentication failed. Please log in again.'], '/login']);
  });

  test('"Client-Side Token Sending": without a token', async () => {
    const { client, window } = page(node, SENDING, null);
    await client.refused('Authentication token required');
    assert.equal(window.location.href, '/chat');
  });

  test('"Token Refresh Strategy": an expired token is refreshed by the page and the same socket connects', async () => {
    const user = someone('refresh');
    const expired = sign({ id: user, exp: Math.floor(Date.now() / 1000) - 60 }, {});
    const fresh = sign({ id: user });
    const { client, fetched, storage, window } = page(node, REFRESHING, expired, { refreshed: fresh });
    assert.equal((await client.ready({ retried: true })).userId, user);
    assert.equal(client.count('connect_error'), 1, client.history());
    assert.deepEqual(fetched, [['/api/refresh-token', { method: 'POST', credentials: 'include' }]]);
    assert.deepEqual([storage.get('authToken'), window.location.href], [fresh, '/chat']);
  });

  test('"Token Refresh Strategy": no new token leads to the login page', async () => {
    const { client, window } = page(node, REFRESHING, sign({ id: 1, exp: Math.floor(Date.now() / 1000) - 60 }, {}));
    await client.wait('connect_error');
    await eventually('the page goes to /login', async () => window.location.href === '/login');
  });

  test('"Protecting Namespaces": /public for everyone, /admin for admins', async () => {
    const guest = new Client(io(`${node.url}/public`, { forceNew: true }), 'a guest in /public');
    await guest.ready();
    const user = new Client(io(`${node.url}/admin`, { forceNew: true, auth: { token: sign({ id: 2 }) } }), 'a user in /admin');
    await user.refused('Admin access required');
    const admin = new Client(io(`${node.url}/admin`, { forceNew: true, auth: { token: sign({ id: 3, role: 'admin' }) } }), 'an admin in /admin');
    assert.equal((await admin.ready()).role, 'admin');
  });

  test('"Disconnect user from all devices": forceDisconnect with the reason, then out', async () => {
    const user = someone('suspended');
    const told = [];
    const sockets = [1, 2].map(() => {
      const { client } = page(node, SENDING, sign({ id: user }));
      client.socket.on('forceDisconnect', ({ reason }) => told.push(reason));
      return client;
    });
    for (const client of sockets) await client.ready();
    await node.api.disconnect(user, { reason: 'Account suspended' });
    for (const client of sockets) await client.kicked(4500, 'Account suspended');
    assert.deepEqual(told, ['Account suspended', 'Account suspended']);
  });

  test('"Multi-Device Authentication": how many devices, and a message to all of them', async () => {
    const user = someone('devices');
    const clients = [];
    for (let n = 1; n <= 3; n += 1) {
      const { client } = page(node, SENDING, sign({ id: user }));
      assert.equal((await client.ready()).connections, n);
      clients.push(client);
    }
    assert.deepEqual(await node.api.send(user, 'notification', { text: 'hello' }), { connections: 3, nodes: 1, unconfirmed: 0 });
    for (const client of clients) assert.deepEqual(await client.wait('notification'), [{ text: 'hello' }]);
    for (const client of clients) client.socket.disconnect();
    await eventually('the user is fully disconnected', async () => (await node.api.user(user)).online === false);
  });
});

// --- the exercise, and the strategies that need more than one node ------------------------------------------------------

/** For a page whose session cookie is all it has. */
const BY_COOKIE = "const socket = io('http://localhost:3000', {});";

onBothRegistries((world) => {
  test('exercise 1: requires a valid JWT token in the handshake', async () => {
    for (const [given, message] of [[null, 'Authentication token required'], ['not-a-token', 'Invalid token'], [jwt.sign({ id: 1 }, 'another-secret-that-is-also-32-bytes-long', { expiresIn: '15m' }), 'Invalid token']]) {
      const { client } = page(world.door, SENDING, given);
      await client.refused(message);
    }
    await page(world.door, SENDING, sign({ id: someone('valid') })).client.ready();
  });

  test('exercise 2: extracts user information from the token', async () => {
    const user = someone('info');
    const { client } = page(world.door, SENDING, sign({ id: user, username: 'grace', email: 'grace@example.com', role: 'editor' }));
    const ready = await client.ready();
    assert.deepEqual([ready.userId, ready.username, ready.role], [user, 'grace', 'editor']);
    assert.equal((await world.api.connection(client.id)).userId, user);
  });

  test('exercise 3: rejects connections with expired tokens, and ends those whose token expires', async () => {
    const { client } = page(world.door, SENDING, sign({ id: 1, exp: soon(-60) }, {}));
    await client.refused('Invalid or expired token');
    // With the default leeway of 5 s, whatever that means for a live connection, it is over by then.
    const short = page(world.door, SENDING, sign({ id: someone('short'), exp: soon(2) }, {})).client;
    await short.ready();
    await short.wait('disconnect', { ms: 15000 });
    assert.deepEqual(short.told(), { code: 4001, reason: 'Token expired', reconnect: true });
  });

  test('exercise 4: tracks how many devices each user is connected from', async () => {
    const user = someone('tracked');
    const clients = [];
    for (const [i, deviceId] of ['phone', 'laptop', 'laptop'].entries()) {
      const client = connect(i % 2 ? world.desk : world.door, { token: sign({ id: user }), deviceId });
      await client.ready();
      clients.push(client);
    }
    const view = await world.api.user(user);
    assert.deepEqual([view.online, view.connections.length, view.devices], [true, 3, 2]);
    assert.deepEqual((await world.api.ok('GET', '/v1/users')).users.find((one) => one.userId === user), { userId: user, connections: 3, devices: 2 });
    assert.equal((await clients[0].granted('devices')).connections.length, 3);
    clients[0].socket.disconnect();
    await eventually('the phone is gone', async () => assert.equal((await world.api.user(user)).devices, 1));
  });

  test('exercise 5: allows administrators to disconnect specific users', async () => {
    const [user, other] = [someone('specific'), someone('other')];
    const clients = [];
    for (const at of [world.door, world.desk]) {
      const { client } = page(at, SENDING, sign({ id: user }));
      await client.ready();
      clients.push(client);
    }
    const bystander = page(world.door, SENDING, sign({ id: other })).client;
    await bystander.ready();
    const admin = connect(world.door, { token: sign({ id: someone('admin'), role: 'admin' }), namespace: '/admin' });
    await admin.ready();
    assert.equal((await admin.granted('disconnectUser', { user, reason: 'Account suspended' })).disconnected, 2);
    for (const client of clients) await client.kicked(4500, 'Account suspended');
    assert.equal((await world.api.user(user)).online, false);
    assert.equal(bystander.count('disconnect'), 0);
    // Nobody else may.
    const plain = connect(world.door, { token: sign({ id: other }), namespace: '/admin' });
    await plain.refused('Admin access required');
  });

  test('"Session-Based Authentication": the login of a web application is all that a page needs', async ({ owned }) => {
    const app = await startExpress({ redis: world.store });
    owned(app.stop);
    const user = someone('session');
    const browser = await app.browser().login({ userId: user, username: 'ada' });
    const { client } = page(world.door, BY_COOKIE, null, { cookie: browser.cookie });
    const ready = await client.ready();
    assert.deepEqual([ready.userId, ready.username], [user, 'ada']);
    const visitor = await app.browser().login({ visits: 1 });
    await page(world.door, BY_COOKIE, null, { cookie: visitor.cookie }).client.refused('Not authenticated');
    await browser.logout();
    await client.kicked(4503, 'Session ended');
  });

  test('"Disconnecting Unauthorized Users": an administrator who is none any more gets an error and is out', async ({ owned }) => {
    const app = await startExpress({ redis: world.store });
    owned(app.stop);
    const browser = await app.browser().login({ user: { id: someone('admin') }, role: 'admin' });
    const admin = connect(world.door, { auth: {}, extraHeaders: { cookie: browser.cookie }, namespace: '/admin', reconnection: false });
    await admin.ready();
    await admin.granted('listUsers', {});
    await browser.change({ role: 'user' });
    admin.socket.emit('listUsers', {}, () => {});
    assert.deepEqual(await admin.wait('error'), [{ message: 'Unauthorized action' }]);
    await admin.wait('disconnect');
  });

  test('"Token Refresh Strategy": the page as it stands against the node itself', async () => {
    const user = someone('refresh');
    const { cookie } = await world.api.openSession(user, { username: 'ada' });
    const jar = new Jar().keep(cookie);
    const before = jar.cookies.get('refreshToken');
    const { client, fetched, storage, window } = page(world.door, REFRESHING, sign({ id: user, exp: soon(-60) }, {}), { jar });
    const ready = await client.ready({ retried: true });
    assert.deepEqual([ready.userId, ready.username], [user, 'ada']);
    assert.deepEqual(fetched, [['/api/refresh-token', { method: 'POST', credentials: 'include' }]]);
    assert.equal(jwt.decode(storage.get('authToken')).sub, user);
    assert.notEqual(jar.cookies.get('refreshToken'), before);
    assert.equal(window.location.href, '/chat');
  });

  test('"Token Refresh Strategy": two tabs whose token has expired', async () => {
    const user = someone('tabs');
    const jar = new Jar().keep((await world.api.openSession(user)).cookie);
    const tabs = [world.door, world.desk].map((at) => page(at, REFRESHING, sign({ id: user, exp: soon(-60) }, {}), { jar }));
    for (const { client } of tabs) assert.equal((await client.ready({ retried: true })).userId, user);
    for (const { window } of tabs) assert.equal(window.location.href, '/chat');
  });

  test('"Token Refresh Strategy": after a logout the page goes to the login', async () => {
    const user = someone('logout');
    const { cookie, token: given } = await world.api.openSession(user);
    const jar = new Jar().keep(cookie);
    const tab = page(world.door, REFRESHING, given, { jar });
    await tab.client.ready();
    const stale = jar.copy();
    await jar.post(world.desk.url, '/api/logout');
    await tab.client.kicked(4503, 'Session ended');
    const next = page(world.door, REFRESHING, sign({ id: user, exp: soon(-60) }, {}), { jar: stale });
    await eventually('the page goes to /login', async () => next.window.location.href === '/login');
    assert.equal(next.client.count('ready'), 0);
  });
}, {
  env: async (world) => {
    // The role that is gone is for the verb to find out: sessions are looked at by themselves only now and then.
    const env = { SWITCHBOARD_AUTH__SESSION__SECRETS: SESSION_SECRET, SWITCHBOARD_AUTH__SESSION__RECHECK: '5s' };
    world.store = world.redis;
    if (!world.store) {
      world.store = await startRedis();
      world.owned(() => world.store.stop());
      env.SWITCHBOARD_AUTH__SESSION__REDIS_URL = world.store.url;
    }
    return env;
  },
});
