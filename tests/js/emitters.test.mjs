// Contract 15: what emitters of Socket.IO servers publish reaches the same clients, once each, on all nodes.
//
// python-socketio itself is in tests/clients/emitters.test.mjs.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Emitter } from '@socket.io/redis-emitter';
import { createClient } from 'redis';
import { after, before, connected, describe, eventually, parseMetrics, runBinary, someone, startNode, startRedis, test, token } from './harness.mjs';
import { packed } from './support/msgpack.mjs';

const REFUSED = 'switchboard_ingress_refused_total';

const metrics = async (node) => parseMetrics((await node.api.request('GET', '/metrics')).text);
const hears = (node, source) => eventually(`${node.name} hears what ${source} publishes`, async () => {
  assert.equal((await metrics(node)).value('switchboard_ingress_up', { source }), 1);
});
/** The arguments of every event with this name that a client has got. */
const got = (client, name) => client.seen.filter((one) => one.name === name).map(({ args }) => args);

describe('emitters', () => {
  let redis;
  let publisher;
  let emitter;
  let nodes;
  before(async () => {
    redis = await startRedis();
    const config = '[ingress.emitter]\nnamespaces = ["/", "/public"]\n[ingress.python]\nallow = ["emit", "join", "disconnect"]\n';
    nodes = await Promise.all(['one', 'two', 'three'].map((name) => startNode({ redis, name, config })));
    publisher = createClient({ url: redis.url });
    await publisher.connect();
    emitter = new Emitter(publisher);
    for (const node of nodes) for (const source of ['emitter', 'python']) await hears(node, source);
  });
  after(async () => {
    publisher?.destroy();
    await Promise.all((nodes ?? []).map((node) => node.kill()));
    await redis?.stop();
  });

  /** A connection of the user's on each node. */
  const everywhere = (user, more = {}) => Promise.all(nodes.map((node) => connected(node, { user, ...more })));
  let fences = 0;
  /** Waits until all that was published so far has been carried out on the nodes of these clients. */
  const settled = async (clients, namespace = '/') => {
    const fence = `fence-${(fences += 1)}`;
    emitter.of(namespace).emit(fence);
    await Promise.all(clients.map((client) => client.wait(fence)));
  };
  /** Holds each client to having got an event so often, with these arguments. */
  const counts = (name, args, expected) => {
    for (const [client, times] of expected) assert.deepEqual(got(client, name), Array(times).fill(args), `${client.label}: ${client.history()}`);
  };
  const refusals = async (reason, source = 'emitter') => {
    const all = await Promise.all(nodes.map(metrics));
    return all.map((one) => one.value(REFUSED, { reason, source }));
  };
  /** Holds each node to having refused one message more, for this reason. */
  const refused = async (reason, publish, source) => {
    const before = await refusals(reason, source);
    await publish();
    await eventually(`each node counts it as ${reason}`, async () => {
      assert.deepEqual(await refusals(reason, source), before.map((count) => count + 1));
    });
  };

  test('an event for all reaches each client of each node once', async () => {
    const clients = [...(await everywhere(someone())), ...(await everywhere(someone()))];
    emitter.emit('news', 'hello', { n: 1 });
    await settled(clients);
    counts('news', ['hello', { n: 1 }], clients.map((client) => [client, 1]));
  });

  test('rooms: a user, a role, a connection; each client once, and exceptions not', async () => {
    const user = someone('room');
    const [ones, others] = [await everywhere(user), await everywhere(someone(), { claims: { role: 'editor' } })];
    const all = [...ones, ...others];
    const each = (one, other) => [...ones.map((client) => [client, one]), ...others.map((client) => [client, other])];
    emitter.to(`user:${user}`).emit('mine', 1);
    emitter.to('role:editor').emit('editors', 1);
    emitter.to([`user:${user}`, 'role:editor', ones[0].id, 'nobody-is-here']).emit('both', 1);
    emitter.to(ones[1].id).emit('one', 1);
    emitter.except(`user:${user}`).emit('not-mine', 1);
    emitter.to(`user:${user}`).except(ones[0].id).emit('but-one', 1);
    emitter.to('nobody-is-here').emit('nobody', 1);
    await settled(all);
    counts('mine', [1], each(1, 0));
    counts('editors', [1], each(0, 1));
    counts('both', [1], each(1, 1));
    counts('one', [1], all.map((client) => [client, client === ones[1] ? 1 : 0]));
    counts('not-mine', [1], each(0, 1));
    counts('but-one', [1], all.map((client) => [client, client === ones[1] || client === ones[2] ? 1 : 0]));
    counts('nobody', [1], each(0, 0));
  });

  test('arguments arrive as they were: binary, dates, what is undefined, numbers, no argument', async () => {
    const user = someone('typed');
    const clients = await everywhere(user);
    const at = new Date('2026-11-29T01:02:03.456Z');
    const args = [Buffer.from([0, 1, 255]), { file: Buffer.from('x'), at, gone: undefined, list: [1, -2, 0.5, 2 ** 40, null, true, 'grüße'] }];
    emitter.to(`user:${user}`).emit('typed', ...args);
    emitter.to(`user:${user}`).emit('bare');
    emitter.to(`user:${user}`).volatile.emit('volatile', 1);
    emitter.to(`user:${user}`).compress(false).emit('flat', 1);
    await settled(clients);
    const { gone, ...rest } = args[1];
    counts('typed', [args[0], { ...rest, at: at.toISOString() }], clients.map((client) => [client, 1]));
    counts('bare', [], clients.map((client) => [client, 1]));
    counts('volatile', [1], clients.map((client) => [client, 1]));
    counts('flat', [1], clients.map((client) => [client, 1]));
  });

  test('namespaces are kept apart, and one that is not configured is refused', async () => {
    const [users, guests] = [await everywhere(someone()), await Promise.all(nodes.map((node) => connected(node, { namespace: '/public' })))];
    emitter.of('/public').emit('open', 1);
    await settled(guests, '/public');
    await settled(users);
    counts('open', [1], [...guests.map((client) => [client, 1]), ...users.map((client) => [client, 0])]);
    await refused('namespace', () => emitter.of('/admin').emit('open', 2));
  });

  test('socketsJoin and socketsLeave change rooms at once, and the registry is told', async () => {
    const [one, other] = [someone('joins'), someone('joins')];
    const [ones, others] = [await everywhere(one), await everywhere(other)];
    const all = [...ones, ...others];
    const each = (mine, theirs) => [...ones.map((client) => [client, mine]), ...others.map((client) => [client, theirs])];
    const members = async (room) => (await nodes[0].api.ok('GET', `/v1/rooms/${room}`)).connections;
    emitter.in([`user:${one}`, others[0].id]).except(ones[0].id).socketsJoin(['team-a', 'team-b']);
    emitter.to('team-a').emit('team', 1);
    emitter.in('team-b').except(`user:${other}`).socketsLeave('team-a');
    emitter.to('team-a').emit('rest', 1);
    await settled(all);
    counts('team', [1], all.map((client) => [client, [ones[1], ones[2], others[0]].includes(client) ? 1 : 0]));
    counts('rest', [1], all.map((client) => [client, client === others[0] ? 1 : 0]));
    await eventually('the registry has them', async () => assert.deepEqual([await members('team-a'), await members('team-b')], [1, 3]));
    assert.deepEqual((await nodes[0].api.connection(others[0].id)).rooms, ['team-a', 'team-b']);
    await refused('room', () => emitter.in(`user:${one}`).socketsJoin(`user:${other}`));
    emitter.to(`user:${other}`).emit('private', 1);
    await settled(all);
    counts('private', [1], each(0, 1));
    emitter.in('team-b').socketsLeave(['team-a', 'team-b']);
    await eventually('the rooms are empty', async () => assert.deepEqual([await members('team-a'), await members('team-b')], [0, 0]));
  });

  test('disconnectSockets ends one namespace, or with close the transport', async () => {
    const user = someone('ended');
    for (const [close, guestStays] of [[false, true], [true, false]]) {
      const guests = await Promise.all(nodes.map((node) => connected(node, { namespace: '/public' })));
      const clients = guests.map((guest) => guest.join('/', { auth: { token: token(user) } }));
      await Promise.all(clients.map((client) => client.ready()));
      emitter.in(`user:${user}`).disconnectSockets(close);
      for (const client of clients) await client.kicked(4500, 'Disconnected by an administrator');
      if (guestStays) {
        await settled(guests, '/public');
        for (const guest of guests) assert.equal(guest.count('disconnect'), 0, guest.history());
      } else {
        for (const guest of guests) await guest.kicked(4500);
      }
    }
    await eventually('they are out of the registry', async () => assert.equal((await nodes[0].api.user(user)).online, false));
  });

  test('what only the server says can not be said, nor asked what no emitter asks', async () => {
    const clients = await everywhere(someone());
    for (const event of ['ready', 'tokenExpiring', 'forceDisconnect', 'presence']) await refused('reserved_event', () => emitter.emit(event, 1));
    await refused('unsupported', () => emitter.serverSideEmit('hello', 1));
    await refused('unsupported', () => publisher.publish('socket.io-request#/#', JSON.stringify({ type: 5, requestId: 'x', uid: 'y', opts: { rooms: [], except: [] } })));
    await settled(clients);
    for (const client of clients) assert.equal(client.count('ready'), 1, client.history());
    // Socket.IO servers beside this fleet count those whose answers they wait for.
    const listeners = await publisher.sendCommand(['PUBSUB', 'NUMSUB', 'socket.io-request#/#']);
    assert.equal(Number(listeners[1]), 0, 'expected no node to count as a Socket.IO server');
  });

  test("the PHP emitter's forms: two elements on one channel, or three", async () => {
    const user = someone('php');
    const clients = await everywhere(user);
    const packet = (name, ...data) => ({ type: 2, data: [name, ...data], nsp: '/' });
    await publisher.publish('socket.io#emitter', packed([packet('two', 'a', { b: 1 }), { rooms: [`user:${user}`], flags: [] }]));
    await publisher.publish('socket.io#emitter', packed(['emitter', packet('three', 'a'), { rooms: [`user:${user}`], flags: { json: true, local: true } }]));
    await publisher.publish('socket.io#/#', packed(['emitter', packet('all'), { rooms: [], flags: [] }]));
    await publisher.publish('socket.io#/#', packed(['emitter', { ...packet('bytes', Buffer.from([0xff, 0xfe, 1])), type: 5 }, { rooms: { 0: `user:${user}`, 2: 'x' } }]));
    await settled(clients);
    const each = clients.map((client) => [client, 1]);
    counts('two', ['a', { b: 1 }], each);
    counts('three', ['a'], each);
    counts('all', [], each);
    counts('bytes', [Buffer.from([0xff, 0xfe, 1])], each);
  });

  test("python-socketio's messages", async () => {
    const user = someone('python');
    const [ones, others] = [await everywhere(user), await everywhere(someone())];
    const say = (message) => publisher.publish('socketio', JSON.stringify({ namespace: '/', host_id: 'h', ...message }));
    const emit = (event, data, more = {}) => say({ method: 'emit', event, data, binary: false, room: `user:${user}`, skip_sid: null, callback: null, ...more });
    await emit('one', [{ n: 1 }]);
    await emit('several', [1, 'two']);
    await emit('none', [null]);
    await emit('all', [1], { room: null });
    await emit('rooms', [1], { room: [`user:${user}`, others[0].id], skip_sid: ones[2].id });
    await emit('bytes', [[{ _placeholder: true, num: 1 }, { x: { _placeholder: true, num: 0 } }], 'AAE=', '/w=='], { binary: true });
    const all = [...ones, ...others];
    await emit('fence-python', [], { room: null });
    await Promise.all(all.map((client) => client.wait('fence-python')));
    const mine = (args, name) => counts(name, args, all.map((client) => [client, ones.includes(client) ? 1 : 0]));
    mine([{ n: 1 }], 'one');
    mine([1, 'two'], 'several');
    mine([], 'none');
    counts('all', [1], all.map((client) => [client, 1]));
    counts('rooms', [1], all.map((client) => [client, [ones[0], ones[1], others[0]].includes(client) ? 1 : 0]));
    mine([Buffer.from([255]), { x: Buffer.from([0, 1]) }], 'bytes');
    await say({ method: 'enter_room', sid: ones[1].id, room: 'python-room' });
    await emit('in-room', [1], { room: 'python-room' });
    await ones[1].wait('in-room');
    await say({ method: 'disconnect', sid: ones[0].id });
    await ones[0].kicked(4500);
    assert.equal(ones[1].count('disconnect') + others[0].count('disconnect'), 0);
    await refused('not_allowed', () => say({ method: 'leave_room', sid: ones[1].id, room: 'python-room' }), 'python');
    await refused('unsupported', () => emit('asked', [1], { callback: ['r', '/', 1] }), 'python');
    await refused('unreadable', () => emit('bytes', [[{ _placeholder: true, num: 3 }], 'AAE='], { binary: true }), 'python');
    await refused('unreadable', () => publisher.publish('socketio', Buffer.from([0x80, 0x04, 0x95])), 'python');
  });

  test('whatever else is published is counted, and harms nobody', async () => {
    const clients = await everywhere(someone());
    const channels = ['socket.io#/#', 'socket.io-request#/#', 'socket.io#emitter', 'socket.io#', 'socket.io#/', 'socketio'];
    const total = async () => {
      const all = await Promise.all(nodes.map(metrics));
      return all.map((one) => one.value(REFUSED));
    };
    const before = await total();
    let published = 0;
    const publish = async (channel, payload) => {
      published += 1;
      await publisher.publish(channel, payload);
    };
    for (let round = 0; round < 50; round += 1) for (const channel of channels) await publish(channel, randomBytes(1 + (round % 40)));
    const huge = [0x93, 0xdd, 0xff, 0xff, 0xff, 0xff];
    for (const channel of channels) {
      await publish(channel, Buffer.alloc(100_000, 0x91));
      await publish(channel, Buffer.alloc(100_000, '['));
      await publish(channel, Buffer.concat([Buffer.from('{"a":'), Buffer.alloc(50_000, '[')]));
      await publish(channel, Buffer.from(huge));
      await publish(channel, Buffer.from([0xc6, 0xff, 0xff, 0xff, 0xff]));
      await publish(channel, Buffer.alloc(1_100_000, 0xc0));
    }
    let deep = 1;
    for (let depth = 0; depth < 200; depth += 1) deep = [deep];
    await publish('socket.io#/#', packed(['emitter', { type: 2, data: ['deep', deep], nsp: '/' }, { rooms: [] }]));
    await publish('socket.io#/#', packed(['emitter', { type: 2, data: ['many'], nsp: '/' }, { rooms: Array(10_001).fill('r') }]));
    await publish('socket.io#/#', packed(['emitter', { type: 2, data: [], nsp: '/' }, {}]));
    await publish('socket.io#/#', packed(['emitter', { type: 2, data: ['elsewhere'], nsp: '/public' }, {}]));
    await publish('socket.io#/#', packed(['emitter', { type: 1, data: ['a'], nsp: '/' }, {}]));
    await publish('socket.io-request#/#', '{"type":4,"close":true}');
    await publish('socketio', '{"method":"disconnect"}');
    await eventually('every one is counted on every node', async () => {
      assert.deepEqual(await total(), before.map((count) => count + published));
    }, { ms: 20000 });
    await settled(clients);
    for (const client of clients) {
      const others = client.seen.filter(({ name }) => !['connect', 'ready'].includes(name) && !name.startsWith('fence'));
      assert.deepEqual(others, [], client.history());
    }
  });
});

test('a node without redis.urls listens to a Redis of the emitters, and goes on when that was away', async ({ redis, node }) => {
  const theirs = await redis();
  const alone = await node({ env: { SWITCHBOARD_INGRESS__EMITTER__REDIS_URL: theirs.url, SWITCHBOARD_INGRESS__EMITTER__KEY: 'app[1]' } });
  await hears(alone, 'emitter');
  const client = await connected(alone, { user: someone() });
  const emit = async (event) => {
    const publisher = createClient({ url: theirs.url });
    await publisher.connect();
    await new Emitter(publisher, { key: 'app[1]' }).emit(event);
    await publisher.close();
  };
  await emit('before');
  await client.wait('before');
  await theirs.stop();
  await eventually('the gap is counted', async () => {
    const now = await metrics(alone);
    assert.deepEqual(['up', 'gaps_total'].map((name) => now.value(`switchboard_ingress_${name}`, { source: 'emitter' })), [0, 1]);
  });
  assert.equal((await alone.api.request('GET', '/readyz')).status, 200, 'clients are served without it');
  await theirs.start();
  await hears(alone, 'emitter');
  await emit('after');
  await client.wait('after');
  assert.deepEqual([client.count('before'), client.count('after')], [1, 1]);
});

test('a user of Redis that may subscribe and no more is enough, also when the right comes late', async ({ redis, node }) => {
  const theirs = await redis();
  const grant = (...rules) => theirs.command('ACL', 'SETUSER', 'listener', ...rules);
  await grant('on', '>secret-of-the-listener', '-@all', '+ping', '+psubscribe', 'resetchannels');
  const url = theirs.url.replace('redis://', 'redis://listener:secret-of-the-listener@');
  const alone = await node({ env: { SWITCHBOARD_INGRESS__EMITTER__REDIS_URL: url } });
  await alone.line(/Redis refuses a subscription to emitters/);
  assert.equal((await metrics(alone)).value('switchboard_ingress_up', { source: 'emitter' }), 0);
  await grant('&socket.io#*', '&socket.io-request#*');
  await hears(alone, 'emitter');
  assert.equal((await metrics(alone)).value('switchboard_ingress_gaps_total', { source: 'emitter' }), 0);
  assert.ok(!alone.log.includes('secret-of-the-listener'));
});

test('what can not be is an error that names the key', async () => {
  for (const [key, env] of [
    ['ingress.emitter.redis_url', { SWITCHBOARD_INGRESS__EMITTER__KEY: 'x' }],
    ['ingress.python.redis_url', { SWITCHBOARD_INGRESS__PYTHON__CHANNEL: 'x' }],
    ['ingress.emitter.namespaces.0', { SWITCHBOARD_REDIS_URL: 'redis://127.0.0.1:1', SWITCHBOARD_INGRESS__EMITTER__NAMESPACES: '/nowhere' }],
  ]) {
    const { code, output } = await runBinary(['check-config'], { env });
    assert.equal(code, 1, output);
    assert.ok(output.includes(key), `${key} in ${output}`);
  }
});
