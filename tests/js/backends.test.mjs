// What clients say reaches a backend, and what it answers reaches them.

import assert from 'node:assert/strict';
import { connected, eventually, onBothRegistries, someone, test, token } from './harness.mjs';
import { calling, startBackend, WEBHOOK_SECRETS } from './support/backend.mjs';

const UNAVAILABLE = { ok: false, error: 'Unavailable' };
const [secret, second] = WEBHOOK_SECRETS;

/** A promise, and what resolves it. */
function latch() {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { open, opened };
}

/** How many calls came to an outcome, by a node's metrics. */
async function counted(node, outcome, { type = 'client.event', backend = 'app' } = {}) {
  const { text } = await node.api.request('GET', '/metrics');
  const line = text.split('\n').find((one) => one.startsWith('switchboard_backend_calls_total{') && [`backend="${backend}"`, `type="${type}"`, `outcome="${outcome}"`].every((label) => one.includes(label)));
  return Number(line?.split(' ').at(-1) ?? 0);
}

const settings = async (world) => {
  const backend = await startBackend();
  world.backend = backend;
  world.owned(() => backend.stop());
  return calling({ url: backend.url, namespaces: ['/', '/public'], events: ['chat:*', 'say', 'join', 'watch'], timeout: '600ms', in_flight: 3 });
};

onBothRegistries((world) => {
  test('an event that is a call reaches the backend as it is, and its answer is the acknowledgement', async () => {
    const { backend } = world;
    const user = someone('caller');
    const client = await connected(world.door, { user, deviceId: 'phone' });
    backend.on('say', ({ args }) => ({ ack: { heard: args[0] } }));
    assert.deepEqual(await client.ask('say', 'hello', { n: 1 }), { heard: 'hello' });
    const [data] = backend.of('say').slice(-1);
    assert.deepEqual(Object.keys(data), ['namespace', 'connection', 'event', 'args', 'ack']);
    assert.deepEqual([data.namespace, data.event, data.args, data.ack], ['/', 'say', ['hello', { n: 1 }], true]);
    assert.deepEqual(data.connection, await world.api.ok('GET', `/v1/connections/${client.id}`));
    assert.deepEqual([data.connection.userId, data.connection.deviceId], [user, 'phone']);
    // Without an acknowledgement, and of a guest in another namespace.
    const guest = await connected(world.door, { namespace: '/public' });
    guest.socket.emit('chat:typing');
    await eventually('the event without an acknowledgement is there', () => backend.of('chat:typing').length === 1);
    const [typing] = backend.of('chat:typing');
    assert.deepEqual([typing.namespace, typing.connection.userId, typing.args, typing.ack], ['/public', null, [], false]);
    assert.deepEqual(backend.wrong, []);
  });

  test('an acknowledgement has no argument, one or several, and binary in both directions', async () => {
    const { backend } = world;
    const client = await connected(world.door, { user: someone('acks') });
    const ask = (...args) => new Promise((resolve) => client.socket.emit('chat:ack', ...args, (...answer) => resolve(answer)));
    for (const [said, args] of [
      [undefined, []],
      [{}, []],
      [{ ack: null }, [null]],
      [{ ack: 7 }, [7]],
      [{ ack: [1, 'two', { three: 3 }] }, [1, 'two', { three: 3 }]],
      [{ ack: [[1, 2]] }, [[1, 2]]],
      [{ ack: { file: { $base64: 'AQID' } } }, [{ file: Buffer.from([1, 2, 3]) }]],
      [(response) => response.writeHead(200).end(), []],
      [(response) => response.writeHead(201, { 'content-type': 'text/plain' }).end('{"ack":"created"}'), ['created']],
    ]) {
      backend.on('chat:ack', () => said);
      assert.deepEqual(await ask(), args, JSON.stringify(said));
    }
    backend.on('chat:ack', ({ args }) => ({ ack: args }));
    assert.deepEqual(await ask(Buffer.from([4, 5]), { deep: [Buffer.from([6])] }), [Buffer.from([4, 5]), { deep: [Buffer.from([6])] }]);
    assert.deepEqual(backend.of('chat:ack').at(-1).args, [{ $base64: 'BAU=' }, { deep: [{ $base64: 'Bg==' }] }]);
  });

  test('what fails is said to the client as Unavailable and counted by its reason, and the next call goes through', async () => {
    const { backend } = world;
    const client = await connected(world.door, { user: someone('unlucky') });
    let elsewhere = 0;
    backend.on('elsewhere', () => (elsewhere += 1));
    for (const [outcome, said] of [
      ['status', (response) => response.writeHead(500).end('{"ack":1}')],
      ['status', (response) => response.writeHead(404).end()],
      ['redirect', (response) => response.writeHead(307, { location: backend.url }).end()],
      ['invalid', (response) => response.end('<html>')],
      ['invalid', (response) => response.end('[]')],
      ['invalid', { ack: 1, actions: [{ do: 'dance' }] }],
      ['invalid', { ack: 1, actions: [{ do: 'emit', user: '1', event: 'ready' }] }],
      ['invalid', { ack: { $base64: '?' } }],
      ['too_large', { ack: 'x'.repeat(1_000_000) }],
      ['unreachable', (response) => response.destroy()],
      ['timeout', () => {}],
    ]) {
      backend.on('say', () => said);
      const before = await counted(world.door, outcome);
      assert.deepEqual(await client.ask('say'), UNAVAILABLE, outcome);
      assert.equal(await counted(world.door, outcome), before + 1, outcome);
    }
    assert.equal(elsewhere, 0);
    backend.on('say', () => ({ ack: 'again' }));
    assert.equal(await client.ask('say'), 'again');
    assert.equal(client.count('disconnect'), 0, client.history());
    assert.ok(!world.door.log.includes(secret.slice('whsec_'.length)), 'expected no secret in the log');
  });

  test('calls of a connection go one after another, in order, and hold up neither its own verbs nor other connections', async () => {
    const { backend } = world;
    const user = someone('patient');
    const [slow, quick] = [await connected(world.door, { user }), await connected(world.door, { user })];
    const { open, opened } = latch();
    let now = 0;
    backend.on('chat:slow', async ({ args: [n] }) => {
      assert.equal((now += 1), 1, 'one at a time');
      if (n === 0) await opened;
      now -= 1;
      return { ack: n };
    });
    backend.on('say', () => ({ ack: 'quick' }));
    const answered = [];
    for (let n = 0; n < 20; n += 1) slow.socket.emit('chat:slow', n, (answer) => answered.push(answer));
    await eventually('the first call is there', () => backend.of('chat:slow').length === 1);
    await slow.granted('refreshToken', token(user));
    await slow.granted('devices');
    assert.equal(await quick.ask('say'), 'quick');
    assert.equal(backend.of('chat:slow').length, 1);
    open();
    await eventually('all are answered', () => answered.length === 20);
    assert.deepEqual(answered, Array.from({ length: 20 }, (_, n) => n));
    assert.deepEqual(backend.of('chat:slow').map(({ args }) => args[0]), answered);
  });

  test('beyond in_flight a call is answered Unavailable at once', async () => {
    const { backend } = world;
    const clients = await Promise.all(Array.from({ length: 4 }, () => connected(world.door, { user: someone('crowd') })));
    const { open, opened } = latch();
    backend.on('chat:hold', () => opened.then(() => ({ ack: 'held' })));
    const before = await counted(world.door, 'in_flight');
    const held = clients.slice(0, 3).map((client) => client.ask('chat:hold'));
    await eventually('three calls are under way', () => backend.of('chat:hold').length === 3);
    assert.deepEqual(await clients[3].ask('chat:hold'), UNAVAILABLE);
    assert.equal(await counted(world.door, 'in_flight'), before + 1);
    open();
    assert.deepEqual(await Promise.all(held), ['held', 'held', 'held']);
    assert.equal(await clients[3].ask('chat:hold'), 'held');
  });

  test('what no backend takes is unknown, and own verbs are never calls', async () => {
    const client = await connected(world.door, { user: someone('stray') });
    // Own verbs that this configuration does not offer are none of a backend's either.
    for (const [event, argument] of [['join', 'chat'], ['watch', ['42']]]) await client.denied('Unknown event', event, argument);
    assert.deepEqual([world.backend.of('join'), world.backend.of('watch')], [[], []]);
    await client.denied('Unknown event', 'chat');
    await client.denied('Unknown event', 'says');
    const admin = await connected(world.door, { user: someone('admin'), claims: { role: 'admin' }, namespace: '/admin' });
    await admin.denied('Unknown event', 'say');
    await client.granted('devices');
    assert.ok(!world.backend.calls.some(({ data }) => data.event === 'devices'));
  });

  test('actions are done in order and before the acknowledgement', async () => {
    const { backend } = world;
    const user = someone('actor');
    const [actor, friend, other] = [await connected(world.door, { user }), await connected(world.desk, { user: someone('friend') }), await connected(world.desk, { user })];
    const friendOf = (await world.api.ok('GET', `/v1/connections/${friend.id}`)).userId;
    backend.on('chat:act', () => ({
      ack: 'done',
      actions: [
        { do: 'emit', connection: actor.id, event: 'first', data: 1 },
        { do: 'emit', user: friendOf, event: 'told', args: ['a', { $base64: 'AQID' }] },
        { do: 'emit', user, event: 'second', except: [other.id] },
        { do: 'emit', room: `user:${user}`, event: 'third', data: null, except: [other.id] },
        { do: 'emit', user: 'nobody', event: 'lost' },
      ],
    }));
    assert.equal(await actor.ask('chat:act').then((ack) => (actor.seen.push({ name: 'ack', args: [ack] }), ack)), 'done');
    assert.deepEqual(actor.seen.map(({ name }) => name).filter((name) => !['connect', 'ready'].includes(name)), ['first', 'second', 'third', 'ack']);
    assert.deepEqual(await friend.wait('told'), ['a', Buffer.from([1, 2, 3])]);
    assert.deepEqual([other.count('second'), other.count('third')], [0, 0]);
  });

  test('a backend takes the calling connection into a room, and out of it', async () => {
    const { backend } = world;
    const [client, other] = [await connected(world.door, { user: someone('member') }), await connected(world.desk, { user: someone('outside') })];
    backend.on('chat:room', ({ args: [action, room] }) => ({ ack: 'done', actions: [{ do: action, room }, { do: 'emit', room, event: 'changed', data: action }] }));
    assert.equal(await client.ask('chat:room', 'join', 'den'), 'done');
    assert.deepEqual(await client.wait('changed'), ['join']);
    assert.deepEqual((await world.api.ok('GET', `/v1/connections/${client.id}`)).rooms, ['den']);
    assert.equal((await world.api.ok('POST', '/v1/rooms/den/events', { event: 'hi' })).connections, 1);
    await client.wait('hi');
    assert.equal(await client.ask('chat:room', 'leave', 'den'), 'done');
    assert.deepEqual((await world.api.ok('GET', `/v1/connections/${client.id}`)).rooms, []);
    assert.deepEqual([client.count('changed'), other.count('changed'), other.count('hi')], [1, 0, 0]);
    assert.deepEqual(await client.ask('chat:room', 'join', 'user:1'), UNAVAILABLE);
  });

  test('a disconnect ends the calling connection behind its acknowledgement', async () => {
    const { backend } = world;
    const [client, bystander] = [await connected(world.door, { user: someone('leaver') }), await connected(world.door, { user: someone('bystander') })];
    backend.on('chat:leave', () => ({ ack: 'bye', actions: [{ do: 'disconnect', code: 4500, reason: 'You asked for it' }] }));
    assert.equal(await client.ask('chat:leave'), 'bye');
    await client.kicked(4500, 'You asked for it');
    await eventually('it is out of the registry', async () => (await world.api.request('GET', `/v1/connections/${client.id}`)).status === 404);
    backend.on('chat:leave', () => ({ actions: [{ do: 'disconnect', reconnect: true }] }));
    bystander.socket.emit('chat:leave');
    await bystander.sentAway(4003, 'Reconnect requested');
  });
}, { env: settings });

test('a backend that is down is spared, /readyz says so and stays 200, and it is found again', async ({ node, owned }) => {
  const first = await startBackend();
  const door = await node({ env: calling({ url: first.url, events: ['*'], timeout: '2s' }) });
  const client = await connected(door, { user: someone('waiting') });
  await client.ask('anything');
  await first.stop();
  for (let n = 0; n < 10; n += 1) assert.deepEqual(await client.ask('anything'), UNAVAILABLE);
  const readyz = () => door.api.request('GET', '/readyz');
  assert.deepEqual([(await readyz()).status, (await readyz()).json], [200, { ready: true, degraded: true, backends: ['app'] }]);
  await eventually('a call is not made', async () => {
    await client.ask('anything');
    return (await counted(door, 'down')) > 0;
  });
  const again = await startBackend({ port: first.port });
  owned(() => again.stop());
  await eventually('it is called again', async () => (await client.ask('anything')) === undefined);
  assert.equal((await readyz()).text, 'ready');
});

test('connections to a backend are kept, and SIGHUP brings other backends to those who are connected', async ({ node, owned }) => {
  const backends = await Promise.all([startBackend(), startBackend()]);
  for (const one of backends) owned(() => one.stop());
  const table = ({ url }, name, more = '') => `[[backends]]\nname = "${name}"\nurl = "${url}"\nsecret = "${secret}"\nsecrets = ["${second}"]\nevents = ["say"]\n${more}`;
  const door = await node({ config: '[limits]\n' });
  const client = await connected(door, { user: someone('kept') });
  await client.denied('Unknown event', 'say');
  door.reload(table(backends[0], 'one'));
  await eventually('the first backend answers', async () => (await client.ask('say')) === undefined);
  for (let n = 0; n < 5; n += 1) await client.ask('say');
  assert.equal(backends[0].connections, 1);
  door.reload(`${table(backends[0], 'one')}${table(backends[1], 'two').replace('say', 'also')}`);
  await eventually('the second backend answers', async () => (await client.ask('also')) === undefined);
  await client.ask('say');
  assert.equal(backends[0].connections, 1, 'expected a backend that stays to keep its connection');
  door.reload(table(backends[1], 'bad', 'hears = ["x"]\n'));
  await door.line(/unknown key/);
  await client.ask('say');
  door.reload(table(backends[1], 'two'));
  await eventually('the second takes the event', async () => {
    await client.ask('say');
    return backends[1].of('say').length > 0;
  });
  assert.deepEqual(backends.flatMap(({ wrong }) => wrong), []);
});
