// Contract 10: rooms. Memberships by claim, by the backend and by the client; sends, listings and ends.

import assert from 'node:assert/strict';
import { clockPasses, connect, connected, eventually, expectProblem, onBothRegistries, parseMetrics, segment, someone, test, token } from './harness.mjs';

const config = `
[limits]
rooms_per_connection = 4

[[namespaces]]
path = "/"
client_rooms = ["chat:*", "lobby"]

[[namespaces]]
path = "/public"
auth = "none"
client_rooms = ["*"]

[[namespaces]]
path = "/closed"

[[namespaces]]
path = "/admin"
roles = ["admin"]
`;

onBothRegistries((world) => {
  let rooms = 0;
  const fresh = (kind = 'chat') => `${kind}:${process.pid}/${(rooms += 1)}`;
  const at = (room, rest = '') => `/v1/rooms/${segment(room)}${rest}`;
  const send = (room, json) => world.api.ok('POST', at(room, '/events'), json);
  const look = (room, query = '') => world.api.ok('GET', at(room, query));
  const members = async (room, query = '') => (await world.api.ok('GET', at(room, `/members${query}`))).members;
  const put = (user, room, json) => world.api.ok('PUT', `/v1/users/${segment(user)}/rooms/${segment(room)}`, json);
  const out = (user, room) => world.api.ok('DELETE', `/v1/users/${segment(user)}/rooms/${segment(room)}`);
  const shown = async (client) => (await world.api.ok('GET', `/v1/connections/${segment(client.id)}`)).rooms;
  const everybody = () => [world.door, world.desk];
  const refused = async () => parseMetrics((await world.door.api.request('GET', '/metrics')).text).value('switchboard_rooms_refused_total');

  test('a token claims rooms, and a fresh one others', async () => {
    const user = someone('claims');
    const [one, two, three] = [fresh(), fresh(), fresh()];
    const client = await connected(world.door, { user, claims: { rooms: [one, two, 7, '', `user:${user}`, 'x'.repeat(201)] } });
    assert.deepEqual(await shown(client), [one, two].sort());
    assert.deepEqual(await look(one), { room: one, namespace: '/', connections: 1, users: 1 });
    assert.deepEqual(await send(one, { event: 'hi', data: 1 }), { connections: 1, nodes: 1, unconfirmed: 0 });
    assert.deepEqual(await client.wait('hi'), [1]);

    await client.granted('refreshToken', token(user, { rooms: [two, three] }));
    assert.deepEqual(await shown(client), [two, three].sort());
    assert.deepEqual(await send(one, { event: 'late' }), { connections: 0, nodes: 0, unconfirmed: 0 });
    assert.equal((await send(three, { event: 'new' })).connections, 1);
    await client.wait('new');
    assert.equal(client.count('late'), 0);
    assert.equal((await look(one)).connections, 0);
  });

  test('a fresh token changes rooms at the limit, and those beyond it are left out', async () => {
    const user = someone('full');
    const [old, next] = [4, 5].map((count) => Array.from({ length: count }, () => fresh()));
    const client = await connected(world.door, { user, claims: { rooms: old } });
    assert.deepEqual(await shown(client), [...old].sort());
    const before = await refused();
    await client.granted('refreshToken', token(user, { rooms: next }));
    assert.deepEqual(await shown(client), next.slice(0, 4).sort());
    assert.equal((await refused()) - before, 1);
    for (const room of old) assert.equal((await look(room)).connections, 0);
    for (const room of next.slice(0, 4)) assert.equal((await look(room)).connections, 1);
  });

  test('a user is put into a room for good: what is there, what comes, and what comes back', async () => {
    const user = someone('lasting');
    const room = fresh('team');
    const first = await connected(world.door, { user });
    const second = await connected(world.desk, { user });
    const elsewhere = await connected(world.door, { user, namespace: '/closed' });
    assert.deepEqual(await put(user, room), { connections: 2 });
    assert.deepEqual(await put(user, room), { connections: 0 }, 'they are in it');
    const third = await connected(world.door, { user });
    assert.deepEqual(await look(room), { room, namespace: '/', connections: 3, users: 1 });
    for (const client of [first, second, third]) assert.deepEqual(await shown(client), [room]);
    assert.deepEqual(await shown(elsewhere), []);
    const ids = (await members(room)).map(({ userId, connectionId }) => `${userId} ${connectionId}`);
    assert.deepEqual(ids, [first, second, third].map(({ id }) => `${user} ${id}`).sort());
    assert.equal((await send(room, { event: 'all', data: 'x' })).connections, 3);
    for (const client of [first, second, third]) assert.deepEqual(await client.wait('all'), ['x']);

    for (const client of [first, second, third]) client.socket.disconnect();
    await eventually('nobody is in the room', async () => assert.equal((await look(room)).connections, 0));
    assert.deepEqual(await world.api.ok('GET', `/v1/users/${segment(user)}/rooms`), { rooms: [{ room, namespace: '/', until: null }] });
    const back = await connected(world.desk, { user });
    assert.equal((await send(room, { event: 'back' })).connections, 1);
    await back.wait('back');

    assert.deepEqual(await out(user, room), { connections: 1 });
    assert.deepEqual(await out(user, room), { connections: 0 });
    assert.deepEqual(await shown(back), []);
    assert.deepEqual(await world.api.ok('GET', `/v1/users/${segment(user)}/rooms`), { rooms: [] });
    assert.deepEqual(await look(room), { room, namespace: '/', connections: 0, users: 0 });
    const later = await connected(world.door, { user });
    assert.deepEqual(await shown(later), []);
  });

  test('a membership ends at its time', async () => {
    const user = someone('until');
    const room = fresh('trial');
    const client = await connected(world.door, { user });
    const until = new Date(Date.now() + 1500);
    assert.deepEqual(await put(user, room, { until: until.toISOString() }), { connections: 1 });
    const { rooms: kept } = await world.api.ok('GET', `/v1/users/${segment(user)}/rooms`);
    assert.equal(new Date(kept[0].until).getTime(), until.getTime());
    await clockPasses(until.getTime() + 50);
    await eventually('the room is left', async () => assert.equal((await look(room)).connections, 0));
    assert.deepEqual(await shown(client), []);
    assert.deepEqual(await world.api.ok('GET', `/v1/users/${segment(user)}/rooms`), { rooms: [] });
    assert.equal((await send(room, { event: 'over' })).connections, 0);
    const later = await connected(world.desk, { user });
    assert.deepEqual(await shown(later), []);
    const past = await world.api.request('PUT', `/v1/users/${segment(user)}/rooms/${segment(room)}`, { json: { until: '2020-01-01T00:00:00Z' } });
    expectProblem(past, 422, 'a time that is over');
    assert.equal(past.json.code, 'invalid_time');
  });

  test('one connection is put into a room, and taken out', async () => {
    const user = someone('single');
    const room = fresh('desk');
    const client = await connected(world.door, { user });
    const other = await connected(world.desk, { user });
    const path = `/v1/connections/${segment(client.id)}/rooms/${segment(room)}`;
    assert.deepEqual(await world.api.ok('PUT', path), { connections: 1 });
    assert.deepEqual(await world.api.ok('PUT', path), { connections: 0 });
    assert.deepEqual(await shown(client), [room]);
    assert.deepEqual(await members(room), [{ userId: user, connectionId: client.id }]);
    assert.equal((await send(room, { event: 'one' })).connections, 1);
    await client.wait('one');
    await put(user, room);
    const kept = await world.api.request('DELETE', path);
    expectProblem(kept, 409, 'its user is in the room');
    assert.equal(kept.json.code, 'lasting_membership');
    await out(user, room);
    assert.deepEqual(await members(room), [{ userId: user, connectionId: client.id }], 'by itself it is in it yet');
    assert.deepEqual(await world.api.ok('DELETE', path), { connections: 1 });
    assert.deepEqual(await world.api.ok('DELETE', path), { connections: 0 });
    assert.deepEqual(await shown(client), []);
    assert.equal(other.count('one'), 0);
    const nobody = await world.api.request('PUT', `/v1/connections/nobody/rooms/${segment(room)}`);
    expectProblem(nobody, 404, 'no such connection');
  });

  test('a client joins and leaves where its namespace lets it', async () => {
    const user = someone('chats');
    const room = fresh();
    const client = await connected(world.door, { user });
    assert.deepEqual(await client.granted('join', room), {});
    assert.deepEqual(await client.granted('join', room), {});
    assert.deepEqual(await shown(client), [room]);
    assert.equal((await send(room, { event: 'said', data: 1 })).connections, 1);
    await client.wait('said');
    assert.deepEqual(await client.granted('leave', room), {});
    assert.deepEqual(await client.granted('leave', room), {});
    assert.equal((await send(room, { event: 'said', data: 2 })).connections, 0);
    await client.denied('Room not allowed', 'join', 'secret');
    await client.denied([], 'join', 'user:42');
    await client.denied([], 'join', 'role:admin');
    await client.denied([], 'join', 'device:phone');
    await client.denied([], 'join', '');
    await client.denied([], 'join', `chat:${'x'.repeat(200)}`);
    await client.denied('Invalid arguments', 'join', { room });
    await client.denied('Room not allowed', 'leave', 'secret');
    for (let i = 0; i < 4; i += 1) await client.granted('join', `${room}/${i}`);
    await client.denied('Too many rooms', 'join', `${room}/4`);
    const closed = await connected(world.door, { user, namespace: '/closed' });
    await closed.denied('Unknown event', 'join', room);
    const guest = await connected(world.door, { namespace: '/public' });
    await guest.granted('join', room);
    assert.deepEqual(await members(room, '?namespace=/public'), [{ userId: null, connectionId: guest.id }]);
    assert.deepEqual(await look(room, '?namespace=public'), { room, namespace: '/public', connections: 1, users: 0 });
    assert.equal((await look(room)).connections, 0);
  });

  test('a guest who says who it is stays in its rooms', async () => {
    const user = someone('guest');
    const [room, claimed] = [fresh(), fresh()];
    const guest = await connected(world.door, { namespace: '/public' });
    await guest.granted('join', room);
    const known = await guest.granted('authenticate', token(user, { rooms: [claimed] }));
    guest.id = known.connectionId;
    await eventually('the room has the user', async () => {
      assert.deepEqual(await members(room, '?namespace=/public'), [{ userId: user, connectionId: guest.id }]);
      assert.deepEqual(await shown(guest), [room, claimed].sort());
    });
    assert.equal((await send(claimed, { event: 'known', namespace: '/public' })).connections, 1);
    await guest.wait('known');
  });

  test('a send to a room takes what every send takes', async () => {
    const room = fresh();
    const clients = [];
    for (const node of [...everybody(), world.door]) clients.push(await connected(node, { user: someone('crowd'), claims: { rooms: [room] } }));
    const nodes = world.count;
    assert.deepEqual(await send(room, { event: 'a', args: [1, { $base64: 'YQ==' }] }), { connections: 3, nodes, unconfirmed: 0 });
    for (const client of clients) assert.deepEqual(await client.wait('a'), [1, Buffer.from('a')]);
    assert.equal((await send(room, { event: 'b', except: [clients[0].id, clients[1].id] })).connections, 1);
    await clients[2].wait('b');
    for (const client of clients) client.answer('ask', client.id);
    const answer = await send(room, { event: 'ask', ack: { timeoutMs: 5000 } });
    assert.deepEqual(answer.acks.map(({ data }) => data).sort(), clients.map(({ id }) => id).sort());
    assert.equal(answer.missing, 0);
    const [bulk] = (await world.api.ok('POST', '/v1/events', { messages: [{ room, event: 'c' }] })).results;
    assert.deepEqual(bulk, { connections: 3, nodes, unconfirmed: 0 });
    for (const client of clients) await client.wait('c');
    assert.equal(clients[0].count('b') + clients[1].count('b'), 0);

    const user = someone('own');
    const one = await connected(world.door, { user, claims: { role: 'editor-of-rooms' } });
    assert.deepEqual(await send(`user:${user}`, { event: 'mine' }), { connections: 1, nodes: 1, unconfirmed: 0 });
    await one.wait('mine');
    assert.equal((await send('role:editor-of-rooms', { event: 'ours' })).connections, 1);
    await one.wait('ours');
    assert.deepEqual(await shown(one), []);
  });

  test('rooms are listed by namespace and prefix, each once', async () => {
    const mark = fresh('list');
    const clients = [];
    for (const [namespace, names] of [['/', ['b', 'a', 'c']], ['/closed', ['b', 'd']]]) {
      for (const node of everybody()) clients.push(await connected(node, { user: someone('lists'), namespace, claims: { rooms: names.map((name) => `${mark}/${name}`) } }));
    }
    const read = async (query) => {
      const found = [];
      for (let cursor = ''; cursor !== null;) {
        const page = await world.api.ok('GET', `/v1/rooms?${query}&limit=2&cursor=${cursor}`);
        assert.ok(page.rooms.length <= 2);
        found.push(...page.rooms.map(({ room, namespace, connections }) => `${namespace} ${room.slice(mark.length + 1)} ${connections}`));
        cursor = page.next;
      }
      return found.sort();
    };
    const prefix = `prefix=${encodeURIComponent(mark)}`;
    assert.deepEqual(await read(prefix), ['/ a 2', '/ b 2', '/ c 2', '/closed b 2', '/closed d 2']);
    assert.deepEqual(await read(`${prefix}&namespace=/closed`), ['/closed b 2', '/closed d 2']);
    assert.deepEqual(await read(`${prefix}/b`), ['/ b 2', '/closed b 2']);
    assert.deepEqual(await read(`${prefix}/zzz`), []);
    const all = await read('');
    assert.ok(all.every((line) => !/ (user|role|device):/.test(line)), all.join());

    const room = `${mark}/a`;
    const ids = [];
    for (let cursor = ''; cursor !== null;) {
      const page = await world.api.ok('GET', at(room, `/members?limit=1&cursor=${cursor}`));
      ids.push(...page.members.map(({ connectionId }) => connectionId));
      cursor = page.next;
    }
    assert.deepEqual(ids.sort(), clients.slice(0, 2).map(({ id }) => id).sort());
  });

  test('the end of a room\'s connections keeps the promise of an end', async () => {
    const room = fresh();
    const clients = [];
    for (const node of everybody()) clients.push(await connected(node, { user: someone('ends'), claims: { rooms: [room] } }));
    const stays = await connected(world.door, { user: someone('stays'), claims: { rooms: [room] } });
    const elsewhere = await connected(world.door, { user: someone('elsewhere'), namespace: '/closed', claims: { rooms: [room] } });
    const answer = await world.api.ok('POST', at(room, '/disconnect'), { reason: 'over', except: [stays.id] });
    assert.deepEqual(answer, { disconnected: 2, nodes: world.count, remaining: [] });
    assert.deepEqual(await members(room), [{ userId: (await members(room))[0].userId, connectionId: stays.id }]);
    for (const client of clients) {
      await client.kicked(4500, 'over');
      expectProblem(await world.api.request('GET', `/v1/connections/${segment(client.id)}`), 404, 'it is gone');
    }
    assert.deepEqual(await world.api.ok('POST', at(room, '/disconnect')), { disconnected: 1, nodes: 1, remaining: [] });
    await stays.kicked(4500);
    assert.deepEqual(await world.api.ok('POST', at(room, '/disconnect'), { except: null }), { disconnected: 0, nodes: 0, remaining: [] });
    assert.deepEqual(await world.api.ok('POST', at(room, '/disconnect?namespace=/closed')), { disconnected: 1, nodes: 1, remaining: [] });
    await elsewhere.kicked(4500);
  });

  test('with revokeTokens the end of a room\'s connections is the end of their users\', who do not come back with their tokens', async () => {
    const room = fresh();
    const [user, moderator, stranger] = [someone('out'), someone('moderator'), someone('stranger')];
    const claims = { rooms: [room] };
    const old = token(user, claims);
    const inside = await connected(world.door, { token: old });
    const outside = [await connected(world.desk, { user }), await connected(world.door, { user, namespace: '/public' })];
    const guest = await connected(world.door, { namespace: '/public' });
    const stay = [await connected(world.door, { user: moderator, claims }), await connected(world.desk, { user: stranger })];
    const answer = await world.api.ok('POST', at(room, '/disconnect'), { reason: 'raid', revokeTokens: true, except: [stay[0].id] });
    assert.deepEqual(answer, { disconnected: 3, nodes: world.count, remaining: [] });
    for (const client of [inside, ...outside]) await client.kicked(4500, 'raid');
    await connect(world.desk, { token: old }).refused('Token revoked');
    for (const client of [...stay, guest]) assert.equal(client.count('forceDisconnect'), 0, client.history());
    await connected(world.desk, { user: moderator });
    expectProblem(await world.api.request('POST', at(room, '/disconnect'), { json: { revokeTokens: 'yes' } }), 400, 'no boolean');
  });

  test('a room is emptied, and nobody comes back into it', async () => {
    const room = fresh();
    const user = someone('leaves');
    await put(user, room);
    const lasting = await connected(world.door, { user });
    const claimed = await connected(world.desk, { user: someone('claimed'), claims: { rooms: [room] } });
    const joined = await connected(world.door, { user: someone('joined') });
    await joined.granted('join', room);
    assert.deepEqual(await world.api.ok('DELETE', at(room)), { connections: 3, nodes: world.count, remaining: [] });
    for (const client of [lasting, claimed, joined]) assert.deepEqual(await shown(client), []);
    assert.equal((await send(room, { event: 'gone' })).connections, 0);
    const again = await connected(world.desk, { user });
    assert.deepEqual(await shown(again), []);
    assert.deepEqual(await world.api.ok('DELETE', at(room)), { connections: 0, nodes: 0, remaining: [] });
  });

  test('what is wrong is named', async () => {
    const user = someone('wrong');
    const client = await connected(world.door, { user });
    const long = 'x'.repeat(201);
    const cases = [
      ['PUT', `/v1/users/${user}/rooms/${long}`, 422, 'invalid_room'],
      ['PUT', `/v1/users/${user}/rooms/user%3A42`, 422, 'reserved_room'],
      ['DELETE', `/v1/users/${user}/rooms/role%3Aadmin`, 422, 'reserved_room'],
      ['PUT', `/v1/connections/${client.id}/rooms/device%3Aphone`, 422, 'reserved_room'],
      ['PUT', `/v1/users/${user}/rooms/r`, 422, 'unknown_namespace', { namespace: '/nowhere' }],
      ['PUT', `/v1/users/${user}/rooms/r`, 400, 'malformed', { forever: true }],
      ['GET', '/v1/rooms/r?namespace=/nowhere', 422, 'unknown_namespace'],
      ['GET', '/v1/rooms?namespace=/nowhere', 422, 'unknown_namespace'],
      ['GET', '/v1/rooms?limit=0', 422, 'out_of_range'],
      ['GET', '/v1/rooms?cursor=x', 400, 'invalid_cursor'],
      ['GET', '/v1/rooms/r/members?cursor=x', 400, 'invalid_cursor'],
      ['POST', '/v1/rooms/device%3Aphone/events', 422, 'invalid_target', { event: 'e' }],
      ['POST', '/v1/rooms/r/events', 422, 'invalid_target', { event: 'e', device: 'phone' }],
      ['POST', `/v1/rooms/${long}/events`, 422, 'invalid_room', { event: 'e' }],
      ['POST', '/v1/rooms/r/disconnect', 422, 'out_of_range', { code: 1 }],
    ];
    for (const [method, path, status, code, json] of cases) {
      const answer = await world.api.request(method, path, { json });
      expectProblem(answer, status, `${method} ${path}`);
      assert.equal(answer.json.code, code, `${method} ${path}`);
    }
    for (let i = 0; i < 4; i += 1) await put(user, fresh('many'));
    const full = await world.api.request('PUT', `/v1/users/${user}/rooms/r`);
    expectProblem(full, 422, 'too many rooms');
    assert.equal(full.json.code, 'too_many_rooms');
  });
}, { config });
