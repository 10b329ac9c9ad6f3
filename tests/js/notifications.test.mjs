// Contract 11, notifications: what has happened reaches backends, at least once and in order, whatever dies meanwhile.

import assert from 'node:assert/strict';
import { connected, eventually, onBothRegistries, someone, test } from './harness.mjs';
import { calling, startBackend } from './support/backend.mjs';

const FACTS = ['connection.opened', 'connection.closed', 'user.online', 'user.offline', 'room.occupied', 'room.vacated'];
const QUEUED = ['track:view', 'track:again'];

/** The user, connection or room that a notification is about. */
const about = ({ data }) => data.userId ?? data.connection?.userId;

class Told {
  constructor(backend) {
    this.backend = backend;
  }

  /** What the backend was told about a user, as it came. */
  of = (user) => this.backend.calls.filter((call) => about(call) === user);

  types = (user) => this.of(user).map(({ type }) => type);

  /** Waits until the backend was told just this of a user. */
  just = (user, types, options) => eventually(`the backend is told of ${user}`, () => assert.deepEqual(this.types(user), types), options);
}

const start = async (owned) => {
  const backend = await startBackend();
  backend.queued = QUEUED;
  owned(() => backend.stop());
  return backend;
};

const settings = (backend, more) => calling({ url: backend.url, notify: FACTS, queue: ['track:*'], timeout: '600ms', ...more });

onBothRegistries((world) => {
  test('a connection and its user come and go', async () => {
    const told = new Told(world.backend);
    const user = someone('walker');
    const client = await connected(world.door, { user });
    const connection = await world.api.ok('GET', `/v1/connections/${client.id}`);
    await told.just(user, ['connection.opened', 'user.online']);
    const second = await connected(world.desk, { user });
    await told.just(user, ['connection.opened', 'user.online', 'connection.opened']);
    await world.api.ok('DELETE', `/v1/connections/${second.id}`);
    await told.just(user, ['connection.opened', 'user.online', 'connection.opened', 'connection.closed']);
    client.socket.disconnect();
    await told.just(user, ['connection.opened', 'user.online', 'connection.opened', 'connection.closed', 'connection.closed', 'user.offline']);
    const [opened, online, , ended, closed, offline] = told.of(user);
    assert.deepEqual(opened.data, { connection, reason: null, code: null });
    assert.deepEqual(Object.keys(online.data), ['userId', 'at']);
    assert.deepEqual([ended.data.connection.id, ended.data.reason, ended.data.code], [second.id, 'Disconnected by an administrator', 4500]);
    assert.deepEqual(closed.data, { connection, reason: 'client disconnect', code: null });
    const { lastSeen } = await world.api.user(user);
    assert.equal(offline.data.at, lastSeen);
    assert.ok(Date.parse(offline.timestamp) - Date.parse(lastSeen) >= 400, 'after the delay');
    assert.equal(new Set(told.of(user).map(({ headers }) => headers['webhook-id'])).size, 6);
    assert.deepEqual(world.backend.wrong, []);
  });

  test('who comes back in time was not gone', async () => {
    const told = new Told(world.backend);
    const [user, mark] = [someone('back'), someone('mark')];
    const first = await connected(world.door, { user });
    first.socket.disconnect();
    await eventually('it is gone', async () => assert.equal((await world.api.user(user)).online, false));
    await connected(world.desk, { user });
    const one = await connected(world.door, { user: mark });
    one.socket.disconnect();
    await told.just(mark, ['connection.opened', 'user.online', 'connection.closed', 'user.offline']);
    assert.deepEqual(told.types(user), ['connection.opened', 'user.online', 'connection.closed', 'connection.opened']);
  });

  test('what fails comes again by the same id, in order, and holds up nobody else', async () => {
    const told = new Told(world.backend);
    const [user, other] = [someone('failing'), someone('other')];
    let refusals = 2;
    world.backend.on('connection.opened', ({ connection }) => {
      if (connection.userId === user && refusals-- > 0) return (response) => response.writeHead(503).end();
    });
    const client = await connected(world.door, { user });
    client.socket.disconnect();
    await eventually('it is refused', () => assert.equal(told.of(user).length, 1));
    await connected(world.door, { user: other });
    await told.just(other, ['connection.opened', 'user.online']);
    assert.ok(told.of(user).length < 3, 'the other one was told of meanwhile');
    await told.just(user, ['connection.opened', 'connection.opened', 'connection.opened', 'user.online', 'connection.closed', 'user.offline'], { ms: 20000 });
    const ids = told.of(user).map(({ headers }) => headers['webhook-id']);
    assert.equal(new Set(ids.slice(0, 3)).size, 1);
    assert.equal(new Set(ids).size, 4);
    assert.deepEqual(world.backend.wrong, []);
  });

  test('what is answered with a 2xx is done, also when the body breaks off', async () => {
    const told = new Told(world.backend);
    const user = someone('broken');
    world.backend.on('connection.opened', ({ connection }) => {
      if (connection.userId !== user) return undefined;
      return (response) => {
        response.writeHead(200, { 'content-length': 10 });
        response.write('{}', () => response.destroy());
      };
    });
    const client = await connected(world.door, { user });
    client.socket.disconnect();
    await told.just(user, ['connection.opened', 'user.online', 'connection.closed', 'user.offline']);
  });

  test("a client's event that is kept is acknowledged, and comes as a call would", async () => {
    const user = someone('tracked');
    const client = await connected(world.door, { user });
    for (const n of [1, 2, 3]) assert.deepEqual(await client.ask('track:view', { n }), { ok: true });
    client.socket.emit('track:again');
    await eventually('they are there', () => assert.equal(world.backend.of('track:again').length, 1));
    const views = world.backend.of('track:view');
    assert.deepEqual(views.map(({ args }) => args[0].n), [1, 2, 3]);
    assert.deepEqual(Object.keys(views[0]), ['namespace', 'connection', 'event', 'args', 'ack']);
    assert.deepEqual([views[0].namespace, views[0].connection.id, views[0].ack, world.backend.of('track:again')[0].ack], ['/', client.id, true, false]);
  });

  test('a room is occupied by its first member and vacated by its last', async () => {
    const room = someone('room');
    const of = () => world.backend.calls.filter(({ data }) => data.room === room);
    const [one, two] = [await connected(world.door, { user: someone('member') }), await connected(world.desk, { user: someone('member') })];
    for (const { id } of [one, two]) await world.api.ok('PUT', `/v1/connections/${id}/rooms/${room}`);
    await world.api.ok('DELETE', `/v1/connections/${one.id}/rooms/${room}`);
    two.socket.disconnect();
    await eventually('it is vacated', () => assert.deepEqual(of().map(({ type }) => type), ['room.occupied', 'room.vacated']));
    assert.deepEqual(of()[0].data, { room, namespace: '/' });
  });
}, {
  config: '[presence]\noffline_delay = "400ms"\n',
  env: async (world) => {
    world.backend = await start(world.owned);
    return settings(world.backend);
  },
});

const FLEET = { SWITCHBOARD_REGISTRY__HEARTBEAT: '300ms', SWITCHBOARD_REGISTRY__LEASE: '1500ms', SWITCHBOARD_PRESENCE__OFFLINE_DELAY: '300ms' };

test('of a node that is killed all is told once, and another delivers', async ({ node, redis, owned }) => {
  const backend = await start(owned);
  const told = new Told(backend);
  const server = await redis();
  const fleet = { redis: server, env: { ...FLEET, ...settings(backend) } };
  // The first one delivers.
  const dies = await node({ ...fleet, name: 'dies' });
  const [lost, kept, last] = [someone('lost'), someone('kept'), someone('last')];
  await connected(dies, { user: lost, reconnection: false });
  await told.just(lost, ['connection.opened', 'user.online']);
  const stays = await node({ ...fleet, name: 'stays' });
  await connected(stays, { user: kept });
  await told.just(kept, ['connection.opened', 'user.online']);
  // It dies while this one is with the backend.
  let arrived;
  const arrives = new Promise((resolve) => (arrived = resolve));
  backend.on('connection.opened', ({ connection }) => {
    if (connection.userId !== last) return undefined;
    arrived();
    return told.of(last).length > 1 ? undefined : new Promise(() => {});
  });
  await connected(stays, { user: last });
  await arrives;
  await dies.kill();
  await told.just(last, ['connection.opened', 'connection.opened', 'user.online'], { ms: 20000 });
  const [first, again] = told.of(last).map(({ headers }) => headers['webhook-id']);
  assert.equal(first, again);
  await told.just(lost, ['connection.opened', 'user.online', 'connection.closed', 'user.offline'], { ms: 20000 });
  const [, , closed, offline] = told.of(lost);
  assert.deepEqual([closed.data.reason, closed.data.code, closed.data.connection.nodeId], ['node lost', null, 'dies']);
  assert.equal(offline.data.at, (await stays.api.user(lost)).lastSeen);
  assert.deepEqual(told.types(kept), ['connection.opened', 'user.online']);
  assert.deepEqual(backend.wrong, []);
});

test('what waits is bounded, and what is dropped is counted; a stream gets the same', async ({ node, redis }) => {
  const server = await redis();
  const backends = calling(
    { url: 'http://127.0.0.1:9/nobody', queue: ['track:*'], timeout: '200ms' },
    { stream: 'facts', secret: undefined, secrets: undefined, queue: ['track:*'], notify: ['user.online'] },
  );
  const one = await node({ redis: server, env: { ...FLEET, ...backends, SWITCHBOARD_EVENTS__MAX_QUEUED: '4' } });
  const value = async (name) => {
    const { text } = await one.api.request('GET', '/metrics');
    return Number(text.split('\n').find((line) => line.startsWith(`switchboard_notifications_${name} `) || line.startsWith(`switchboard_notifications_${name}{reason="excess"}`)).split(' ').at(-1));
  };
  const user = someone('busy');
  const client = await connected(one, { user });
  for (let n = 0; n < 10; n++) assert.deepEqual(await client.ask('track:view', n), { ok: true });
  await eventually('some are dropped', async () => assert.deepEqual([await value('dropped_total'), await value('queued')], [6, 4]), { ms: 15000 });
  assert.ok((await value('lag_seconds')) > 0);
  /** The values of the stream's fields that begin so. */
  const values = async (begin) => (await server.command('XRANGE', 'facts', '-', '+')).split('\r\n').filter((line) => line.startsWith(begin));
  await eventually('all are in the stream', async () => assert.equal((await values('{"type"')).length, 11));
  const events = (await values('{"type"')).map((event) => JSON.parse(event));
  assert.deepEqual([events[0].type, events[0].data.userId], ['user.online', user]);
  assert.deepEqual(events.slice(1).map(({ data }) => data.args[0]), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.equal(new Set(await values('msg_')).size, 11);
});

test('a backend that hangs over notifications is called all the same', async ({ node, owned }) => {
  const backend = await start(owned);
  backend.on('connection.opened', () => new Promise(() => {})).on('anything', () => ({ ack: 'answered' }));
  const door = await node({ env: calling({ url: backend.url, notify: ['connection.opened'], events: ['*'], timeout: '300ms' }) });
  const clients = [];
  for (let n = 0; n < 12; n += 1) clients.push(await connected(door, { user: someone('waiting') }));
  await eventually('the node has given up telling it', async () => {
    const { json } = await door.api.request('GET', '/readyz');
    assert.deepEqual(json?.backends, ['app']);
  });
  for (const client of clients) assert.equal(await client.ask('anything'), 'answered');
});
