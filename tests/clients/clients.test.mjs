// Stock clients of several languages and ages, over each transport, directly and through the compose file's balancer.
//
// A new client is a program that does as ./driver.mjs says, and a line of DRIVERS. CLIENTS names those that run: see ./run.

import assert from 'node:assert/strict';
import path from 'node:path';
import test, { after, before, describe } from 'node:test';
import { fileURLToPath } from 'node:url';
import { eventually, soon, startNode, startRedis, token } from '../js/harness.mjs';
import { Balancer } from '../deploy/balancer.mjs';
import { Driver } from './driver.mjs';

const file = (name) => fileURLToPath(new URL(name, import.meta.url));
const tools = process.env.CLIENTS_TOOLS ?? file('../../target/tools');
const js = (name) => ['node', file('js/driver.mjs'), name];
const python = (kind) => [path.join(tools, 'clients-python/bin/python'), file('python/driver.py'), kind];

const DRIVERS = {
  'js-4.8': js('socket.io-client'),
  'js-4.0': js('socket.io-client-4.0'),
  'js-3.1': js('socket.io-client-3.1'),
  'python-sync': python('sync'),
  'python-async': python('async'),
  'java-2.1': ['java', '-cp', path.join(tools, 'clients-java/*'), file('java/Driver.java')],
};
const TRANSPORTS = { websocket: ['websocket'], polling: ['polling'], upgrade: ['polling', 'websocket'] };
const WAYS = ['directly', 'through HAProxy'];

/** What each client has to do over each transport and way, in this order, once it is connected. */
const CHECKS = {
  'the API shows its transport': async (it) => {
    const wanted = it.transport === 'polling' ? 'polling' : 'websocket';
    await eventually(`the API shows ${wanted}`, async () => assert.equal((await world.b.api.connection(it.client.id)).transport, wanted));
  },
  'an event from the backend': async (it) => {
    const data = { text: 'grüße 👋 "quoted"', list: [1, 2.5, true], nested: { deep: 'er' } };
    assert.deepEqual(await world.b.api.send(it.user, 'news', data), { connections: 1, nodes: 1, unconfirmed: 0 });
    assert.deepEqual(await it.client.wait('news'), [data]);
  },
  'an acknowledgement to the backend': async (it) => {
    const { acks, missing } = await world.b.api.send(it.user, 'question', 'answer', { ack: { timeoutMs: 10000 } });
    assert.deepEqual([acks, missing], [[{ connectionId: it.client.id, data: 'answer' }], 0]);
  },
  // Its attachments are taken in: the API can't send any yet.
  'a binary event that nothing takes is answered': async (it) => {
    assert.equal(await it.client.denied('Unknown event', 'upload', { $base64: 'AAEC/w==' }, 'name', { $base64: '/w==' }), 'Unknown event');
    assert.equal(it.client.count('disconnect'), 0, it.client.history());
  },
  'a new token': async (it) => {
    const exp = soon(1800);
    const { expiresAt } = await it.client.granted('refreshToken', token(it.user, { exp }));
    assert.equal(Date.parse(expiresAt), exp * 1000);
    await eventually('the API shows it', async () => assert.equal(Date.parse((await world.b.api.connection(it.client.id)).expiresAt), exp * 1000));
  },
  'a refusal, with its text and code': async (it) => {
    const refused = it.open('stranger', 'no token');
    await refused.refusedWith('Invalid token', 'invalid_token');
    refused.socket.close();
  },
  'a kick': async (it) => {
    it.kicked = it.open(`${it.user}-kicked`);
    await it.kicked.ready();
    assert.deepEqual(await world.b.api.disconnect(`${it.user}-kicked`), { disconnected: 1, nodes: 1, remaining: [] });
    await it.kicked.ended(4500, false);
  },
  'it comes back when it is asked to': async (it) => {
    const before = it.client.id;
    assert.equal((await world.b.api.disconnect(it.user, { code: 4003, reconnect: true })).disconnected, 1);
    await it.client.ended(4003, true);
    await it.back(world.b, before);
  },
  // It had as much time to come back as the other took.
  'who was kicked stays away': async (it) => {
    assert.equal((await world.b.api.user(`${it.user}-kicked`)).online, false);
    assert.deepEqual([it.kicked.count('connect'), it.kicked.count('ready')], [1, 1], it.kicked.history());
  },
};

const world = {};

/** A test of one combination, within another test. */
const part = (t, name, check) => t.test(name, () => check().catch((error) => {
  world.failed = true;
  throw error;
}));

/** A client library over one transport and one way. */
class Combination {
  constructor(library, transport, way) {
    Object.assign(this, { library, transport, way, readies: 0, drained: false });
    this.name = `${library} ${transport} ${way}`;
    this.user = this.name.replaceAll(' ', '-');
  }

  open(user, credentials = token(user)) {
    const { url } = this.way === 'directly' ? world.a : world.balancer;
    return world.drivers[this.library].open(url, { transports: TRANSPORTS[this.transport], token: credentials, label: `${user} of ${this.name}` });
  }

  /** Waits until it is let in, once more than before, and has a connection unlike the one `before`, which `node` lists alone. */
  async back(node, before) {
    const { connectionId, nodeId } = await this.client.ready({ nth: (this.readies += 1), ms: 20000 });
    this.nodeId = nodeId;
    assert.notEqual(connectionId, before);
    await eventually(`the API lists that one of ${this.user} alone`, async () => {
      assert.deepEqual((await node.api.user(this.user)).connections.map((one) => one.id), [connectionId]);
    });
  }
}

const wanted = (process.env.CLIENTS ?? '').split(' ').filter(Boolean);
const libraries = Object.keys(DRIVERS).filter((name) => !wanted.length || wanted.some((part) => name.startsWith(part)));
const combinations = libraries.flatMap((library) => Object.keys(TRANSPORTS).flatMap((transport) => WAYS.map((way) => new Combination(library, transport, way))));

const startOne = (name, more) => startNode({ name, redis: world.redis, env: { SWITCHBOARD_DRAIN__DELAY: '3s', SWITCHBOARD_DRAIN__WINDOW: '1s' }, ...more });

before(async () => {
  assert.ok(combinations.length, `no client is called ${wanted.join(' or ')}`);
  world.redis = await startRedis();
  [world.a, world.b] = await Promise.all([startOne('a'), startOne('b')]);
  const env = { SWITCHBOARD_FRONT: '192.0.2.1', SWITCHBOARD_CONNECTIONS_PER_ADDRESS: '2000', SWITCHBOARD_HANDSHAKES_PER_ADDRESS: '1000' };
  world.balancer = await Balancer.start([world.a.port, world.b.port], { env, checks: true });
  world.drivers = Object.fromEntries(libraries.map((name) => [name, new Driver(DRIVERS[name], name)]));
  const nodes = new Set();
  await eventually('HAProxy passes on to both nodes', async () => {
    nodes.add((await fetch(`${world.balancer.url}/socket.io/?EIO=4&transport=websocket`)).headers.get('set-cookie')?.split(';')[0]);
    nodes.delete(undefined);
    assert.equal(nodes.size, 2);
  }, { ms: 10000 });
});

after(async () => {
  const drivers = Object.values(world.drivers ?? {});
  await Promise.all(drivers.map((driver) => driver.kill()));
  // What a library complains of matters only where something failed.
  for (const driver of drivers) if (world.failed && driver.stderr) console.error(`--- stderr of ${driver.name} ---\n${driver.stderr}`);
  await Promise.all([world.a, world.b, world.balancer].map((one) => one?.kill()));
  await world.redis?.stop();
});

describe('each client', { concurrency: 6 }, () => {
  for (const it of combinations) {
    test(it.name, { timeout: 120000 }, async (t) => {
      it.client = it.open(it.user);
      await it.back(world.b);
      for (const [name, check] of Object.entries(CHECKS)) await part(t, name, () => check(it));
    });
  }
});

/** Drains a node; everybody on it comes back. Those who connect to it directly wait for what takes its place: `then()`. */
async function drain(t, leaving, look, then) {
  const moved = combinations.filter((it) => it.nodeId === leaving.name && !it.drained);
  leaving.signal('SIGTERM');
  const replaced = leaving.end({ ms: 30000 }).then(async ({ code }) => {
    assert.equal(code, 0, leaving.log.slice(-2000));
    await then?.();
  });
  await Promise.all([replaced, ...moved.map((it) => part(t, it.name, async () => {
    it.drained = true;
    const nth = it.client.count('disconnect') + 1;
    // Without a cookie, HAProxy may pass a poll on to the other node before its own has told it to go.
    if (it.transport === 'polling' && it.way !== 'directly') await it.client.wait('disconnect', { nth });
    else await it.client.ended(4000, true, nth);
    await it.back(look, it.client.id);
    assert.notEqual(it.nodeId, leaving.name);
    it.client.socket.close();
  }))]);
}

test('when its node goes, each client comes back', { concurrency: true, timeout: 120000 }, async (t) => {
  await drain(t, world.a, world.b, async () => {
    world.a = await startOne('a-again', { listen: `127.0.0.1:${world.a.port}` });
  });
  await drain(t, world.b, world.a);
  assert.deepEqual(combinations.filter((it) => !it.drained).map((it) => it.name), [], 'expected each to have been on a node that went');
});
