// The client code that the lesson "Authentication in Socket.io" teaches, run as it stands against a node.

import assert from 'node:assert/strict';
import jwt from 'jsonwebtoken';
import { io } from 'socket.io-client';
import { after, before, Client, describe, eventually, JWT_SECRET, someone, startNode, test } from './harness.mjs';

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

/** As much of a browser as the snippets touch. The one thing that is not as it stands is the port. */
function page(node, code, authToken, { refreshed } = {}) {
  const storage = new Map(authToken === null ? [] : [['authToken', authToken]]);
  const seen = { alerts: [], fetched: [], storage, window: { location: { href: '/chat' } }, clients: [] };
  const names = {
    io(url, options) {
      assert.equal(url, 'http://localhost:3000');
      const socket = io(node.url, { ...options, forceNew: true });
      seen.clients.push(new Client(socket, 'the lesson\'s client'));
      return socket;
    },
    localStorage: { getItem: (key) => storage.get(key) ?? null, setItem: (key, value) => storage.set(key, value) },
    alert: (text) => seen.alerts.push(text),
    window: seen.window,
    fetch: async (url, options) => {
      seen.fetched.push([url, options]);
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
    assert.deepEqual(await node.api.send(user, 'notification', { text: 'hello' }), { connections: 3, nodes: 1 });
    for (const client of clients) assert.deepEqual(await client.wait('notification'), [{ text: 'hello' }]);
    for (const client of clients) client.socket.disconnect();
    await eventually('the user is fully disconnected', async () => (await node.api.user(user)).online === false);
  });
});
