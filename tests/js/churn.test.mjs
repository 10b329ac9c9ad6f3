// Connections closed at random moments of their handshake leave nothing behind.

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import net from 'node:net';
import WebSocket from 'ws';
import { connect, connected, connectPacket, eventually, exchange, onBothRegistries, parseMetrics, pause, Polling, RawSocket, seeded, someone, test, token } from './harness.mjs';

const TOTAL = 400;
const AT_ONCE = 40;
// Sessions that are abandoned over polling end with a missed pong: quickly here.
const env = { SWITCHBOARD_PING__INTERVAL: '1s', SWITCHBOARD_PING__TIMEOUT: '4s', SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '3s' };

/** Ways to leave in the middle. Each takes what it needs and lets go at a moment that `delay` decides. */
const LEAVERS = {
  async 'half an upgrade request'({ url, delay }) {
    const { hostname, port } = new URL(url);
    const socket = net.connect(Number(port), hostname);
    socket.on('error', () => {});
    socket.write('GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: webso');
    await pause(delay());
    socket.destroy();
  },
  async 'during the upgrade'({ url, delay }) {
    const raw = new RawSocket(url);
    await pause(delay());
    raw.ws.terminate();
  },
  async 'after the open packet'({ url }) {
    const raw = await new RawSocket(url).open();
    raw.ws.terminate();
  },
  async 'right after CONNECT was sent'({ url, auth }) {
    const raw = await new RawSocket(url).open();
    raw.ws.send(connectPacket(auth));
    raw.ws.terminate();
  },
  async 'a moment after CONNECT was sent'({ url, auth, delay }) {
    const raw = await new RawSocket(url).open();
    raw.ws.send(connectPacket(auth));
    await pause(delay());
    raw.ws.terminate();
  },
  async 'with a close frame after CONNECT'({ url, auth, delay }) {
    const raw = await new RawSocket(url).open();
    raw.ws.send(connectPacket(auth));
    await pause(delay());
    raw.ws.close();
  },
  async 'on the CONNECT answer, before ready'({ url, auth }) {
    const raw = await new RawSocket(url).open();
    raw.ws.send(connectPacket(auth));
    await raw.until(/^40/);
    raw.ws.terminate();
  },
  async 'on ready'({ url, auth }) {
    const raw = new RawSocket(url);
    await raw.connect(auth);
    raw.ws.terminate();
  },
  async 'CONNECT and DISCONNECT in one breath'({ url, auth, delay }) {
    const raw = await new RawSocket(url).open();
    raw.ws.send(connectPacket(auth));
    raw.ws.send('41');
    await pause(delay());
    raw.ws.terminate();
  },
  async 'CONNECT, DISCONNECT, CONNECT'({ url, auth, delay }) {
    const raw = await new RawSocket(url).open();
    for (const packet of [connectPacket(auth), '41', connectPacket(auth)]) raw.ws.send(packet);
    await pause(delay());
    raw.ws.terminate();
  },
  async 'two namespaces at once'({ url, auth, delay }) {
    const raw = await new RawSocket(url).open();
    raw.ws.send(connectPacket(auth));
    raw.ws.send(connectPacket(auth, '/public'));
    await pause(delay());
    raw.ws.terminate();
  },
  async 'a polling session without CONNECT'({ url }) {
    await Polling.open(url);
  },
  async 'a polling session after CONNECT, never polled'({ url, auth }) {
    const session = await Polling.open(url);
    await session.post(connectPacket(auth));
  },
  async 'a polling session closed by its client'({ url, auth, delay }) {
    const session = await Polling.open(url);
    await session.post(connectPacket(auth));
    await pause(delay());
    await session.post('1');
  },
  async 'a poll that is cut off'({ url, auth, delay }) {
    const session = await Polling.open(url);
    await session.post(connectPacket(auth));
    const { hostname, port } = new URL(url);
    const socket = net.connect(Number(port), hostname);
    socket.on('error', () => {});
    socket.write(`GET ${session.path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await pause(delay());
    socket.destroy();
  },
  async 'an upgrade from polling that stops at the probe'({ url, auth, delay }) {
    const session = await Polling.open(url);
    await session.connect(auth);
    const raw = new RawSocket(url, { sid: session.sid });
    raw.ws.on('open', () => raw.ws.send('2probe'));
    await pause(delay());
    raw.ws.terminate();
  },
  async 'an upgrade from polling that stops right after it'({ url, auth, delay }) {
    const session = await Polling.open(url);
    await session.connect(auth);
    const raw = new RawSocket(url, { sid: session.sid });
    await new Promise((resolve) => raw.ws.on('open', resolve).on('error', resolve));
    if (raw.ws.readyState === WebSocket.OPEN) {
      raw.ws.send('2probe');
      await raw.until(/^3probe$/);
      // The pending poll has to come back before the server switches.
      const poll = exchange(url, 'GET', session.path, { ms: 5000 }).catch(() => {});
      raw.ws.send('5');
      await pause(delay());
      raw.ws.terminate();
      await poll;
    }
  },
  async 'the stock client, disconnected while it connects'({ url, auth, delay }) {
    const client = connect(url, { auth });
    await pause(delay());
    client.socket.disconnect();
  },
  async 'the stock client with an upgrade, disconnected meanwhile'({ url, auth, delay }) {
    const client = connect(url, { auth, transports: ['polling', 'websocket'] });
    await pause(delay() * 3);
    client.socket.disconnect();
  },
};

onBothRegistries((world) => {
  test(`${TOTAL} connections closed at random moments of their handshake leave nothing in the registry`, { ms: 180000 }, async ({ note }) => {
    const seed = Number(process.env.SWITCHBOARD_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
    note(`seed ${seed}: repeat with SWITCHBOARD_TEST_SEED=${seed}`);
    const random = seeded(seed);
    const delay = () => Math.floor(random() ** 2 * 40);
    const ways = Object.keys(LEAVERS);
    const plan = Array.from({ length: TOTAL }, (_, i) => ({ user: `${someone('churn')}-${seed}`, way: ways[i < ways.length ? i : Math.floor(random() * ways.length)] }));
    const urls = [...new Set([world.door.url, world.desk.url])];
    const queue = plan.map((one, i) => ({ ...one, url: urls[i % urls.length] }));
    const worker = async () => {
      for (let one = queue.shift(); one; one = queue.shift()) {
        try {
          await LEAVERS[one.way]({ url: one.url, auth: { token: token(one.user) }, delay });
        } catch (error) {
          throw new Error(`seed ${seed}, "${one.way}": ${error.message}`);
        }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));

    await eventually(`GET /v1/stats shows no connection and no user (seed ${seed})`, async () => {
      const stats = await world.api.stats();
      assert.deepEqual([stats.connections, stats.users], [0, 0], `stats: ${JSON.stringify(stats)}`);
    }, { ms: 40000, every: 200 }).catch(async (error) => {
      const { users } = await world.api.ok('POST', '/v1/presence', { users: plan.map((one) => one.user) });
      const left = {};
      for (const { user, way } of plan) if (users[user].online) left[way] = (left[way] ?? 0) + 1;
      throw new Error(`${error.message}\n  still online are those who left: ${JSON.stringify(left, null, 1)}`);
    });

    const { users } = await world.api.ok('POST', '/v1/presence', { users: plan.map((one) => one.user) });
    const left = plan.filter((one) => users[one.user].online || users[one.user].connections || users[one.user].devices);
    assert.deepEqual(left, [], `expected nobody online (seed ${seed})`);
    for (const { user, way } of plan) {
      const view = await world.api.user(user);
      assert.deepEqual([view.online, view.connections], [false, []], `expected nothing left of the user who left "${way}" (seed ${seed})`);
    }
    assert.deepEqual((await world.api.ok('GET', '/v1/users')).users, [], `expected GET /v1/users to be empty (seed ${seed})`);

    for (const node of new Set([world.door, world.desk])) {
      await eventually(`the gauges of ${node.name} are back to 0 (seed ${seed})`, async () => {
        const metrics = parseMetrics((await node.api.request('GET', '/metrics')).text);
        assert.deepEqual([metrics.value('switchboard_connections'), metrics.value('switchboard_users')], [0, 0]);
      }, { ms: 10000 });
      const user = someone('afterwards');
      const client = await connected(node, { user, transports: ['polling', 'websocket'] });
      await world.api.send(user, 'alive', 1);
      await client.wait('alive');
    }
    if (world.redis) {
      const keys = await world.redis.command('KEYS', '*');
      const named = plan.filter((one) => keys.includes(one.user));
      // lastSeen of each may be kept; connections may not.
      note(`${keys.split('\r\n').filter((line) => line && !/^[$*]/.test(line)).length} keys in Redis afterwards, ${named.length} of which name a user of this run`);
    }
  });
}, { env });

/** How many sockets a node has open. */
const sockets = ({ pid }) =>
  readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith('socket:');
    } catch {
      return false;
    }
  }).length;

for (const away of [false, true]) {
  test(`clients that have left hold no file descriptor${away ? ', also while Redis is away' : ''}`, { skip: !existsSync('/proc/self/fd') && 'needs /proc' }, async ({ node, redis }) => {
    const store = await redis();
    // Long, so that nothing that waits for it gets there.
    const door = await node({ redis: store, env: { SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '60s' } });
    const clients = await Promise.all(Array.from({ length: 30 }, () => connected(door, { user: someone('leaver'), reconnection: false })));
    const most = sockets(door);
    if (away) await store.stop();
    for (const client of clients) client.socket.disconnect();
    await eventually('the sockets of 30 clients are closed', async () => {
      const left = sockets(door);
      assert.ok(left <= most - 28, `${most} with them, ${left} without`);
    }, { ms: 10000 });
  });
}
