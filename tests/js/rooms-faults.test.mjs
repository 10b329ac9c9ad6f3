// Rooms when something breaks: a node that dies or hangs, a Redis that is away or has lost its data, and races.

import assert from 'node:assert/strict';
import { connect, connected, eventually, expectProblem, exchange, parseMetrics, seeded, segment, someone, test, token } from './harness.mjs';

const config = `
[registry]
heartbeat = "300ms"
lease = "1500ms"

[[namespaces]]
path = "/"
client_rooms = ["*"]
`;

const at = (room, rest = '') => `/v1/rooms/${segment(room)}${rest}`;
const send = (node, room, json) => node.api.ok('POST', at(room, '/events'), json);
const members = async (node, room) => (await node.api.ok('GET', at(room, '/members'))).members.map(({ connectionId }) => connectionId).sort();
const put = (node, user, room) => node.api.ok('PUT', `/v1/users/${segment(user)}/rooms/${segment(room)}`);
const ids = (...clients) => clients.map(({ id }) => id).sort();
const readyz = async (node) => (await exchange(node.url, 'GET', '/readyz')).status;

test('the members of a dead node are gone with its lease, and a lasting one comes back with its user', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const [one, dies] = [await node({ redis: store, name: 'one', config }), await node({ redis: store, name: 'dies', config })];
  const user = someone('lasting');
  await put(one, user, 'r');
  const stays = await connected(one, { user: someone('stays'), claims: { rooms: ['r'] } });
  await connected(dies, { user, reconnection: false });
  await connected(dies, { user: someone('dies'), claims: { rooms: ['r', 'only'] }, reconnection: false });
  assert.equal((await members(one, 'r')).length, 3);
  await dies.kill();
  await eventually('its members are gone', async () => assert.deepEqual(await members(one, 'r'), ids(stays)), { ms: 20000 });
  assert.deepEqual(await send(one, 'r', { event: 'e' }), { connections: 1, nodes: 1, unconfirmed: 0 });
  assert.deepEqual(await one.api.ok('GET', at('r')), { room: 'r', namespace: '/', connections: 1, users: 1 });
  assert.deepEqual((await one.api.ok('GET', '/v1/rooms')).rooms, [{ room: 'r', namespace: '/', connections: 1 }]);
  const back = await connected(one, { user });
  assert.deepEqual(await members(one, 'r'), ids(stays, back));
});

test('rooms outlive a Redis that loses everything, and answer nothing wrong meanwhile', { ms: 120000 }, async ({ node, redis }) => {
  const store = await redis();
  const nodes = [await node({ redis: store, name: 'one', config }), await node({ redis: store, name: 'two', config })];
  const [one, two] = nodes;
  const clients = [];
  for (const to of [one, two, two]) clients.push(await connected(to, { user: someone('m'), claims: { rooms: ['r'] } }));
  const joined = await connected(one, { user: someone('joins') });
  await joined.granted('join', 'r');
  clients.push(joined);
  const kept = someone('kept');
  await connected(one, { user: kept });
  await put(two, kept, 'kept');

  await store.stop();
  for (const it of nodes) await eventually('it is not ready', async () => assert.equal(await readyz(it), 503), { ms: 15000 });
  for (const [method, path, json] of [['GET', at('r')], ['GET', '/v1/rooms'], ['GET', at('r', '/members')], ['POST', at('r', '/events'), { event: 'x' }], ['PUT', `/v1/users/42/rooms/r`], ['DELETE', at('r')], ['POST', at('r', '/disconnect')]]) {
    expectProblem(await one.api.request(method, path, { json }), [503, 504], `${method} ${path} while Redis is away`);
  }
  await joined.denied('Service unavailable', 'join', 'late');
  await store.start();
  await eventually('every answer is whole or none', async () => {
    for (const it of nodes) {
      const answer = await it.api.request('GET', at('r', '/members'));
      if (answer.status === 200) assert.deepEqual(answer.json.members.map(({ connectionId }) => connectionId).sort(), ids(...clients), 'a part of the members');
      assert.equal(answer.status, 200);
    }
  }, { ms: 30000 });
  assert.deepEqual(await members(two, 'late'), [], 'it was told that it is not in it');
  assert.deepEqual(await send(two, 'r', { event: 'after' }), { connections: 4, nodes: 2, unconfirmed: 0 });
  for (const client of clients) {
    await client.wait('after');
    assert.equal(client.count('disconnect'), 0, client.history());
  }
  // What only Redis had is gone with it, and counted.
  assert.deepEqual(await one.api.ok('GET', `/v1/users/${segment(kept)}/rooms`), { rooms: [] });
  await eventually('nobody is in its room', async () => assert.deepEqual(await members(two, 'kept'), []));
  for (const it of nodes) {
    const { text } = await it.api.request('GET', '/metrics');
    assert.equal(parseMetrics(text).value('switchboard_registry_losses_total'), 16);
  }
});

test('what a hung node has not confirmed is said, and carried out when it is back', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const long = config.replace('1500ms', '30s');
  const [one, hangs] = [await node({ redis: store, name: 'one', config: long }), await node({ redis: store, name: 'hangs', config: long })];
  const user = someone('both');
  const here = await connected(one, { user });
  const there = await connected(hangs, { user });
  hangs.signal('SIGSTOP');
  const put = await one.api.request('PUT', `/v1/users/${segment(user)}/rooms/r`);
  assert.deepEqual([put.status, put.json], [202, { connections: 1, unconfirmed: 1 }]);
  hangs.signal('SIGCONT');
  await eventually('it is in the room', async () => assert.deepEqual(await members(one, 'r'), ids(here, there)));
  hangs.signal('SIGSTOP');
  const [empties, ends] = await Promise.all([
    one.api.request('DELETE', at('r')),
    one.api.request('POST', at('r', '/disconnect')),
  ]);
  assert.equal(empties.status, 202);
  assert.ok(empties.json.remaining.includes(there.id), JSON.stringify(empties.json));
  assert.deepEqual([ends.status, ends.json.remaining], [202, [there.id]]);
  hangs.signal('SIGCONT');
  await there.kicked(4500);
  await eventually('nobody is in the room', async () => assert.deepEqual(await members(one, 'r'), []));
});

test('a client is in a room from the answer to its join until it leaves, whatever is sent meanwhile', { ms: 90000 }, async ({ node, redis, note }) => {
  const store = await redis();
  const nodes = [await node({ redis: store, name: 'one', config }), await node({ redis: store, name: 'two', config })];
  const seed = Number(process.env.SWITCHBOARD_TEST_SEED ?? Date.now() % 1e6);
  note(`seed ${seed}`);
  const random = seeded(seed);
  const clients = [];
  for (let i = 0; i < 6; i += 1) clients.push(await connected(nodes[i % 2], { user: someone('races') }));
  let over = false;
  let sent = 0;
  /** For each client, the numbers between which it was surely in the room: joined after `from` was sent, left before `to` was. */
  const stays = clients.map(() => []);
  const roam = clients.map(async (client, i) => {
    while (!over) {
      await client.granted('join', 'r');
      const from = sent;
      await new Promise((resolve) => { setTimeout(resolve, random() * 40); });
      const to = sent;
      await client.granted('leave', 'r');
      stays[i].push([from, to]);
    }
  });
  for (let i = 0; i < 150; i += 1) {
    const number = (sent += 1);
    const answer = await send(nodes[i % 2], 'r', { event: 'n', data: number });
    assert.equal(answer.unconfirmed, 0);
  }
  over = true;
  await Promise.all(roam);
  for (const client of clients) await nodes[0].api.ok('POST', `/v1/connections/${segment(client.id)}/events`, { event: 'last' });
  for (const [i, client] of clients.entries()) {
    await client.wait('last');
    const got = client.seen.filter(({ name }) => name === 'n').map(({ args }) => args[0]);
    assert.deepEqual(got, [...new Set(got)].sort((a, b) => a - b), 'once each, in order');
    // What was sent after `from` and answered before `to` found it in the room.
    for (const [from, to] of stays[i]) {
      for (let number = from + 1; number < to; number += 1) assert.ok(got.includes(number), `${client.label} was in the room from ${from} to ${to} and did not get ${number}`);
    }
  }
  for (const it of nodes) assert.deepEqual(await members(it, 'r'), []);
  assert.deepEqual((await nodes[0].api.ok('GET', '/v1/rooms')).rooms, []);
});

test('a room is emptied while a user who was put into it comes on another node: the newcomer is not in it', async ({ node, redis, link }) => {
  const store = await redis();
  const way = await link(store);
  const [door, desk] = [await node({ redis: way, name: 'door', config }), await node({ redis: store, name: 'desk', config })];
  const [user, room] = [someone('newcomer'), 'emptied'];
  await put(desk, user, room);
  // The registry has answered that the user is to be in the room, and is about to be told of the member.
  const held = way.hold(/emptied/);
  const coming = connected(door, { user });
  await held;
  assert.deepEqual(await desk.api.ok('DELETE', at(room)), { connections: 0, nodes: 0, remaining: [] });
  way.release();
  const client = await coming;
  assert.deepEqual(await members(desk, room), []);
  assert.deepEqual(await send(desk, room, { event: 'e' }), { connections: 0, nodes: 0, unconfirmed: 0 });
  await put(desk, user, room);
  assert.deepEqual(await members(desk, room), ids(client));
});

/** Stands for a pattern in `hold`: the nth piece of what a node says to Redis about a name. */
const piece = (name, nth) => {
  let count = 0;
  return { test: (text) => text.includes(name) && (count += 1) === nth };
};

test('a user is put into a room and taken out of it in any order of their steps: who empties it then finds the membership', { ms: 120000 }, async ({ node, redis, link }) => {
  const store = await redis();
  const ways = [await link(store), await link(store)];
  const nodes = [await node({ redis: ways[0], name: 'one', config }), await node({ redis: ways[1], name: 'two', config })];
  let rooms = 0;
  /** The calls, each at a node of its own: the first is held before its step `n`, and the other before its step `m`, until the first is done. */
  const interleave = async (calls, n, m) => {
    const [user, room] = [someone('both'), `between-${(rooms += 1)}-`];
    const path = `/v1/users/${segment(user)}/rooms/${room}`;
    const call = (at) => (calls[at] === 'EMPTY' ? nodes[at].api.ok('DELETE', `/v1/rooms/${room}`) : nodes[at].api.ok(calls[at], path));
    await nodes[1].api.ok('PUT', path);
    const held = [];
    const begin = async (at, step) => {
      const begun = ways[at].hold(piece(room, step));
      held[at] = call(at);
      await Promise.race([begun, held[at]]);
    };
    await begin(0, n);
    await begin(1, m);
    ways[0].release();
    await held[0];
    ways[1].release();
    await held[1];
    await nodes[0].api.ok('DELETE', `/v1/rooms/${room}`);
    assert.deepEqual(await nodes[1].api.ok('GET', `/v1/users/${segment(user)}/rooms`), { rooms: [] }, `${calls} before their steps ${n} and ${m}`);
  };
  for (const out of ['DELETE', 'EMPTY']) {
    for (const calls of [['PUT', out], [out, 'PUT']]) {
      for (let n = 1; n <= 5; n += 1) for (let m = 1; m <= 5; m += 1) await interleave(calls, n, m);
    }
  }
});

test('who joins or leaves by a call is counted, also where its node has it from the registry first', async ({ node, redis, link }) => {
  const store = await redis();
  const way = await link(store);
  const [desk, door] = [await node({ redis: way, name: 'desk', config }), await node({ redis: store, name: 'door', config })];
  const [user, room] = [someone('counted'), 'counted'];
  const client = await connected(door, { user });
  const calls = [['PUT', `/v1/users/${segment(user)}/rooms/${room}`, { connections: 1 }], ['DELETE', at(room), { connections: 1, nodes: 1, remaining: [] }]];
  for (const [method, path, answer] of calls) {
    // The registry has it, and the node is about to be told.
    const held = way.hold(/SPUBLISH/);
    const called = desk.api.ok(method, path);
    await held;
    // Asserts the connection, which answers the rooms of its user.
    await client.granted('join', `${method} of its own`);
    way.release();
    assert.deepEqual(await called, answer, method);
  }
  assert.deepEqual(await members(door, room), []);
});

test('a disconnect of a room with revokeTokens that failed half way is repeated, and leaves nobody a token', { ms: 90000 }, async ({ node, redis, link }) => {
  const store = await redis();
  const way = await link(store);
  const [desk, door] = [await node({ redis: way, name: 'desk', config }), await node({ redis: store, name: 'door', config })];
  const people = ['first', 'second', 'third'].map((kind) => someone(kind));
  const tokens = people.map((user) => token(user, { rooms: ['raid'] }));
  const clients = [];
  for (const [i, user] of people.entries()) clients.push(await connected(door, { user, token: tokens[i] }));
  const [path, json] = [at('raid', '/disconnect'), { revokeTokens: true }];
  const held = way.hold({ test: (text) => text.includes(`kick:${people[1]}`) });
  const called = desk.api.request('POST', path, { json });
  await held;
  way.cut();
  expectProblem(await called, 503, 'the orders of some users are not written');
  way.release();
  way.heal();
  // What stands is carried out when a connection is next asserted.
  for (const client of clients) client.socket.emit('join', 'another');
  await eventually('desk serves', async () => assert.equal(await readyz(desk), 200), { ms: 15000 });
  await eventually('the call is repeated', async () => {
    const answer = await desk.api.ok('POST', path, json);
    assert.deepEqual(answer.remaining, []);
  }, { ms: 15000 });
  for (const [i, client] of clients.entries()) {
    await client.kicked(4500);
    await connect(door, { token: tokens[i] }).refused('Token revoked');
  }
  assert.deepEqual(await members(door, 'raid'), []);
});
