// Contract 3: the HTTP API, verb by verb, and what it says to those who ask wrongly.

import assert from 'node:assert/strict';
import { API_KEY, connect, connected, eventually, expectProblem, onBothRegistries, segment, someone, test, token } from './harness.mjs';

const RFC3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;

const HOSTILE = [
  ['braces', '{user}:{1}'],
  ['a brace that is not closed', 'a{b'],
  ['colons', 'a:b::c:'],
  ['a newline', 'line\nbreak\r\n'],
  ['an emoji', '👩‍👩‍👧‍👦 family'],
  ['an encoded way up', '..%2F..'],
  ['a way up', '../..'],
  ['three dots', '...'],
  ['a slash', 'team/alice'],
  ['slashes at the ends', '/alice/'],
  ['200 characters', 'x'.repeat(200)],
  ['200 characters of four bytes', '😀'.repeat(100) + '𝔘'.repeat(100)],
  ['spaces', '  spaced out  '],
  ['a question mark and a hash', 'what?is=this#thing'],
  ['a percent sign', '100%'],
  ['a plus sign', 'a+b'],
  ['quotes and backslashes', '"it\'s\\n"'],
  ['a NUL', 'nul\0l'],
  ['glob characters', 'a*?[b]'],
  ['a hash tag of Redis', '{a}b'],
  ['a right-to-left mark', 'a\u202eb'],
  ['the word of a route', 'events'],
  ['a number', '0'],
  ['letters that differ when normalised', 'e\u0301'],
];

/** All pages of GET /v1/users. */
async function everybody(api, limit = 100) {
  const users = [];
  let cursor;
  for (let pages = 1; ; pages += 1) {
    const page = await api.ok('GET', `/v1/users?limit=${limit}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`);
    assert.ok(page.users.length <= limit, `expected at most ${limit} users a page, got ${page.users.length}`);
    users.push(...page.users);
    cursor = page.next;
    if (!cursor) return users;
    assert.ok(pages < 500, 'expected the pages of GET /v1/users to come to an end (next: null)');
  }
}

onBothRegistries((world) => {
  // --- events -------------------------------------------------------------------------------------------------------

  test('an event for nobody is answered with zeros', async () => {
    assert.deepEqual(await world.api.send(someone('absent'), 'news', 1), { connections: 0, nodes: 0, unconfirmed: 0 });
  });

  test('an event reaches every connection of the user, and nobody else', async () => {
    const [user, other] = [someone(), someone()];
    const clients = await Promise.all([1, 2, 3].map(() => connected(world.door, { user })));
    const bystander = await connected(world.door, { user: other });
    assert.deepEqual(await world.api.send(user, 'news', { n: 1 }), { connections: 3, nodes: 1, unconfirmed: 0 });
    for (const client of clients) assert.deepEqual(await client.wait('news'), [{ n: 1 }]);
    await world.api.send(other, 'end', 1);
    await bystander.wait('end');
    assert.equal(bystander.count('news'), 0, 'expected another user not to get the event');
  });

  test('data of every JSON kind arrives as it was sent', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    const kinds = [null, true, false, 0, -1.5, 9007199254740991, '', 'text', 'ünï\u0000cødé 👋', [], [1, [2, [3]]], {}, { a: { b: null } }, { _placeholder: true, num: 0 }];
    for (const data of kinds) await world.api.send(user, 'kind', data);
    await client.wait('kind', { nth: kinds.length });
    assert.deepEqual(client.seen.filter((entry) => entry.name === 'kind').map((entry) => entry.args), kinds.map((data) => [data]));
  });

  test('an event goes to the namespace it names, and only there', async () => {
    const user = someone();
    const root = await connected(world.door, { user });
    const open = root.join('/public');
    await open.ready();
    assert.deepEqual(await world.api.send(user, 'to-public', 1, { namespace: '/public' }), { connections: 1, nodes: 1, unconfirmed: 0 });
    assert.deepEqual(await world.api.send(user, 'to-root', 1), { connections: 1, nodes: 1, unconfirmed: 0 });
    await Promise.all([open.wait('to-public'), root.wait('to-root')]);
    assert.equal(root.count('to-public') + open.count('to-root'), 0, 'expected no event in the other namespace');
  });

  test('an event for a namespace that does not exist is refused', async () => {
    const answer = await world.api.request('POST', '/v1/users/1/events', { json: { event: 'x', data: 1, namespace: '/nowhere' } });
    expectProblem(answer, [404, 422], 'an event for an unknown namespace');
  });

  for (const event of ['connect', 'connect_error', 'disconnect', 'disconnecting', 'newListener', 'removeListener']) {
    test(`the reserved event name "${event}" is refused: it would break the stock client`, async () => {
      const user = someone();
      const client = await connected(world.door, { user });
      const answer = await world.api.request('POST', `/v1/users/${user}/events`, { json: { event, data: 1 } });
      expectProblem(answer, [400, 422], `an event named ${event}`);
      await world.api.send(user, 'fine', 1);
      await client.wait('fine');
      assert.equal(client.count('disconnect'), 0, 'expected the client to be unharmed');
    });
  }

  for (const event of ['ready', 'tokenExpiring', 'forceDisconnect', 'presence']) {
    test(`Switchboard's own event "${event}" can't be sent, by the API or by /admin`, async () => {
      const user = someone();
      const admin = await connected(world.door, { user, claims: { role: 'admin' }, namespace: '/admin' });
      for (const [path, body] of [[`/v1/users/${user}/events`, {}], ['/v1/broadcast', {}], [`/v1/connections/${admin.id}/events`, {}]]) {
        const answer = await world.api.request('POST', path, { json: { event, data: 1, ...body } });
        assert.deepEqual([answer.status, answer.json.code], [422, 'reserved_event'], path);
      }
      await admin.denied(`event: "${event}" is Socket.IO's or Switchboard's own`, 'sendToUser', { user, event, data: 1 });
    });
  }

  test('acks are collected from all devices; who does not answer is missing', async () => {
    const user = someone();
    const clients = await Promise.all(['a', 'b'].map((name) => connected(world.door, { user, deviceId: name })));
    clients.forEach((client, i) => client.answer('ask', { from: i }));
    await connected(world.door, { user, deviceId: 'mute' });
    const answer = await world.api.send(user, 'ask', 'well?', { ack: { timeoutMs: 700 } });
    assert.deepEqual([answer.connections, answer.nodes, answer.missing], [3, 1, 1], `expected 3 connections on 1 node and 1 missing, got ${JSON.stringify(answer)}`);
    const byId = Object.fromEntries(answer.acks.map((ack) => [ack.connectionId, ack.data]));
    assert.deepEqual(byId, { [clients[0].id]: { from: 0 }, [clients[1].id]: { from: 1 } });
  });

  test('an ack above limits.ack_bytes comes as too_large, and is not missing', async () => {
    const user = someone();
    const [small, large] = await Promise.all(['a', 'b'].map((name) => connected(world.door, { user, deviceId: name })));
    const fits = 'x'.repeat(64_000 - 2);
    small.answer('ask', fits);
    large.answer('ask', `${fits}x`);
    const answer = await world.api.send(user, 'ask', 'well?', { ack: { timeoutMs: 10000 } });
    const acks = [{ connectionId: small.id, data: fits }, { connectionId: large.id, error: 'too_large' }];
    const byId = (a, b) => (a.connectionId < b.connectionId ? -1 : 1);
    assert.deepEqual({ ...answer, acks: answer.acks.sort(byId) }, { connections: 2, nodes: 1, unconfirmed: 0, acks: acks.sort(byId), missing: 0 });
  });

  test('acks for nobody are answered at once', async () => {
    const answer = await world.api.send(someone('absent'), 'ask', 1, { ack: { timeoutMs: 10000 } });
    assert.deepEqual(answer, { connections: 0, nodes: 0, unconfirmed: 0, acks: [], missing: 0 });
  });

  test('acks end with the client that leaves instead of answering', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    client.socket.on('ask', () => client.socket.disconnect());
    const answer = await world.api.send(user, 'ask', 1, { ack: { timeoutMs: 3000 } });
    assert.deepEqual([answer.connections, answer.acks, answer.missing], [1, [], 1]);
  });

  test('bulk: to users and to connections, with results in order', async () => {
    const [one, two] = [someone(), someone()];
    const clients = await Promise.all([connected(world.door, { user: one }), connected(world.door, { user: one }), connected(world.door, { user: two })]);
    const messages = [
      { user: one, event: 'b', data: 1 },
      { user: someone('absent'), event: 'b', data: 2 },
      { connection: clients[2].id, event: 'b', data: 3 },
      { user: two, event: 'b', data: 4 },
      { connection: 'no-such-connection', event: 'b', data: 5 },
    ];
    const { results } = await world.api.ok('POST', '/v1/events', { messages });
    assert.equal(results.length, messages.length, 'expected one result a message');
    assert.deepEqual(results.slice(0, 4), [{ connections: 2, nodes: 1, unconfirmed: 0 }, { connections: 0, nodes: 0, unconfirmed: 0 }, { connections: 1, nodes: 1, unconfirmed: 0 }, { connections: 1, nodes: 1, unconfirmed: 0 }]);
    assert.ok(results[4].connections === 0 || results[4].error, `expected nothing to be handed to an unknown connection, got ${JSON.stringify(results[4])}`);
    assert.deepEqual(await clients[0].wait('b'), [1]);
    assert.deepEqual(await clients[1].wait('b'), [1]);
    await clients[2].wait('b', { nth: 2 });
    assert.deepEqual(clients[2].seen.filter((entry) => entry.name === 'b').map((entry) => entry.args[0]).sort(), [3, 4]);
  });

  test('bulk: one bad message does not stop the others', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    const { results } = await world.api.ok('POST', '/v1/events', {
      messages: [{ user, event: 'b', data: 1 }, { user, event: 'b', data: 2, namespace: '/nowhere' }, { user, event: 'b', data: 3 }],
    });
    assert.deepEqual([results[0], results[2]], [{ connections: 1, nodes: 1, unconfirmed: 0 }, { connections: 1, nodes: 1, unconfirmed: 0 }]);
    assert.ok(results[1].error, `expected {error} for a message to an unknown namespace, got ${JSON.stringify(results[1])}`);
    await client.wait('b', { nth: 2 });
  });

  test('bulk: 1,000 messages go through, 1,001 are refused', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    const many = (n) => ({ messages: Array.from({ length: n }, (_, i) => (i % 100 === 0 ? { user, event: 'm', data: i } : { user: `nobody-${i}`, event: 'm' })) });
    const { results } = await world.api.ok('POST', '/v1/events', many(1000));
    assert.equal(results.length, 1000);
    await client.wait('m', { nth: 10 });
    assert.deepEqual(client.seen.filter((entry) => entry.name === 'm').map((entry) => entry.args[0]), Array.from({ length: 10 }, (_, i) => i * 100),
      'expected the messages of one call for one user to arrive in their order');
    expectProblem(await world.api.request('POST', '/v1/events', { json: many(1001) }), [400, 413, 422], '1,001 messages');
  });

  test('broadcast reaches everybody in the namespace', async () => {
    const clients = await Promise.all([someone(), someone(), someone()].map((user) => connected(world.door, { user })));
    const guest = await connected(world.door, { auth: {}, namespace: '/public' });
    const answer = await world.api.ok('POST', '/v1/broadcast', { event: 'all', data: { hello: 'world' } });
    assert.deepEqual(Object.keys(answer).sort(), ['connections', 'nodes', 'unconfirmed']);
    assert.deepEqual([answer.nodes, answer.unconfirmed], [world.count, 0], JSON.stringify(answer));
    assert.ok(answer.connections >= 3, `expected at least the 3 of this test, got ${answer.connections}`);
    for (const client of clients) assert.deepEqual(await client.wait('all'), [{ hello: 'world' }]);
    assert.equal((await world.api.ok('POST', '/v1/broadcast', { event: 'open', data: 1, namespace: '/public' })).nodes, world.count);
    await guest.wait('open');
    assert.equal(guest.count('all'), 0, 'expected a broadcast in / not to reach /public');
  });

  // --- reads --------------------------------------------------------------------------------------------------------

  test('a user nobody has heard of is offline, not an error', async () => {
    const view = await world.api.user(someone('unknown'));
    assert.deepEqual([view.online, view.connections, view.devices, view.lastSeen], [false, [], 0, null]);
  });

  test('GET user while online and after', async () => {
    const user = someone();
    const first = await connected(world.door, { user, deviceId: 'd' });
    const second = await connected(world.door, { user, deviceId: 'd' });
    const online = await world.api.user(user);
    assert.deepEqual([online.userId, online.online, online.devices, online.banned], [user, true, 1, false]);
    assert.deepEqual(online.connections.map((one) => one.id).sort(), [first.id, second.id].sort());
    first.socket.disconnect();
    second.socket.disconnect();
    const view = await eventually('the user is offline, with lastSeen', async () => {
      const now = await world.api.user(user);
      assert.deepEqual([now.online, now.connections, now.devices], [false, [], 0]);
      return now;
    });
    assert.match(view.lastSeen ?? '', RFC3339, 'expected lastSeen of a user who left');
    assert.ok(Math.abs(Date.parse(view.lastSeen) - Date.now()) < 20000, `expected lastSeen to be about now, got ${view.lastSeen}`);
  });

  test('GET users pages through everybody online, each once', async () => {
    const users = Array.from({ length: 7 }, () => someone('paged'));
    await Promise.all(users.map((user) => connected(world.door, { user })));
    await connected(world.door, { user: users[0] });
    const seen = await everybody(world.api, 2);
    const mine = seen.filter((one) => users.includes(one.userId));
    assert.deepEqual(mine.map((one) => one.userId).sort(), [...users].sort(), 'expected every user that is online exactly once');
    assert.deepEqual(mine.find((one) => one.userId === users[0]), { userId: users[0], connections: 2, devices: 2 });
    const all = await world.api.ok('GET', '/v1/users');
    for (const user of users) assert.ok(all.users.some((one) => one.userId === user) || all.next, `expected ${user} in GET /v1/users`);
  });

  test('GET users with a cursor that nobody gave, or a limit that is none, is refused', async () => {
    expectProblem(await world.api.request('GET', '/v1/users?cursor=made-up-cursor'), [400, 422], 'a made-up cursor');
    for (const limit of ['-1', 'many']) {
      expectProblem(await world.api.request('GET', `/v1/users?limit=${limit}`), [400, 422], `limit=${limit}`);
    }
  });

  test('POST presence answers for everybody asked', async () => {
    const [here, gone, never] = [someone('here'), someone('gone'), someone('never')];
    await connected(world.door, { user: here, deviceId: 'x' });
    await connected(world.door, { user: here, deviceId: 'x' });
    await connected(world.door, { user: gone });
    await world.api.disconnect(gone);
    const { users } = await world.api.ok('POST', '/v1/presence', { users: [here, gone, never] });
    assert.deepEqual(Object.keys(users).sort(), [here, gone, never].sort());
    assert.deepEqual([users[here].online, users[here].connections, users[here].devices], [true, 2, 1]);
    assert.deepEqual([users[gone].online, users[gone].connections, users[gone].devices], [false, 0, 0]);
    assert.match(users[gone].lastSeen ?? '', RFC3339, 'expected lastSeen of a user who was disconnected');
    assert.deepEqual(users[never], { online: false, connections: 0, devices: 0, lastSeen: null });
    assert.deepEqual((await world.api.ok('POST', '/v1/presence', { users: [] })).users, {});
    const thousand = Array.from({ length: 1000 }, (_, i) => `p-${i}`);
    assert.equal(Object.keys((await world.api.ok('POST', '/v1/presence', { users: thousand })).users).length, 1000);
    expectProblem(await world.api.request('POST', '/v1/presence', { json: { users: [...thousand, 'one-more'] } }), [400, 413, 422], 'the presence of 1,001 users');
  });

  test('connections: an unknown one is 404', async () => {
    for (const id of ['no-such-connection', 'x', 'a'.repeat(300), '..', 'ünï', '{}']) {
      expectProblem(await world.api.request('GET', `/v1/connections/${segment(id)}`), 404, `GET of the connection ${id.slice(0, 20)}`);
      expectProblem(await world.api.request('DELETE', `/v1/connections/${segment(id)}`), 404, `DELETE of the connection ${id.slice(0, 20)}`);
    }
  });

  test('DELETE of a connection ends that one and no other', async () => {
    const user = someone();
    const [one, two] = [await connected(world.door, { user }), await connected(world.door, { user })];
    const answer = await world.api.ok('DELETE', `/v1/connections/${one.id}`);
    assert.equal(answer.disconnected, 1);
    assert.deepEqual((await world.api.user(user)).connections.map((left) => left.id), [two.id]);
    await one.kicked(4500);
    assert.equal(two.socket.connected, true);
    expectProblem(await world.api.request('DELETE', `/v1/connections/${one.id}`), 404, 'DELETE of a connection that is gone');
  });

  test('ending one connection leaves the other namespaces of its transport alone; with the last one the transport closes', async () => {
    const user = someone();
    const root = await connected(world.door, { user });
    const open = root.join('/public');
    await open.ready();
    await world.api.ok('DELETE', `/v1/connections/${root.id}`);
    await root.kicked(4500);
    await world.api.send(user, 'left', 1, { namespace: '/public' });
    await open.wait('left');
    assert.equal(open.count('disconnect'), 0, 'expected the other namespace to stay connected');
    await world.api.ok('DELETE', `/v1/connections/${open.id}`);
    await open.kicked(4500);
  });

  test('nodes and stats', async () => {
    const client = await connected(world.door, { user: someone() });
    const nodes = await world.api.nodes();
    assert.deepEqual(nodes.map((node) => node.nodeId).sort(), [...new Set([world.door.name, world.desk.name])].sort());
    for (const node of nodes) {
      assert.deepEqual(Object.keys(node).sort(), ['connections', 'draining', 'lastHeartbeat', 'nodeId', 'startedAt', 'users', 'version']);
      assert.match(node.startedAt, RFC3339);
      assert.match(node.lastHeartbeat, RFC3339);
      assert.match(node.version, /^\d+\.\d+\.\d+/);
      assert.equal(node.draining, false);
    }
    const stats = await world.api.stats();
    assert.deepEqual(Object.keys(stats).sort(), ['connections', 'nodes', 'users']);
    assert.equal(stats.nodes, world.count);
    assert.ok(stats.connections >= 1 && stats.users >= 1, `expected somebody in the stats, got ${JSON.stringify(stats)}`);
    await eventually('the node\'s own row counts its connections (as of its heartbeat)', async () => {
      const row = (await world.api.nodes()).find((node) => node.nodeId === world.door.name);
      assert.ok(row.connections >= 1 && row.users >= 1, JSON.stringify(row));
    }, { ms: 10000 });
    assert.equal(client.socket.connected, true);
  });

  // --- disconnect ---------------------------------------------------------------------------------------------------

  test('disconnect of nobody is answered with zeros', async () => {
    assert.deepEqual(await world.api.disconnect(someone('absent')), { disconnected: 0, nodes: 0, remaining: [] });
  });

  test('disconnect without a body uses the defaults', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    const answer = await world.api.request('POST', `/v1/users/${user}/disconnect`);
    assert.equal(answer.status, 200, `expected 200 to a disconnect without a body (every field is optional), got ${answer.status}: ${answer.text}`);
    await client.kicked(4500, 'Disconnected by an administrator');
  });

  test('disconnect reaches the user\'s connections in every namespace', async () => {
    const user = someone();
    const claims = { role: 'admin' };
    const root = await connected(world.door, { user, claims });
    const rest = [root.join('/public'), root.join('/admin')];
    for (const client of rest) await client.ready();
    const apart = await connected(world.door, { user, claims, namespace: '/public' });
    const answer = await world.api.disconnect(user, { reason: 'Account suspended' });
    assert.deepEqual(answer, { disconnected: 4, nodes: 1, remaining: [] });
    assert.deepEqual((await world.api.user(user)).connections, [], 'expected none to be listed once disconnect has answered');
    for (const client of [root, ...rest, apart]) await client.kicked(4500, 'Account suspended');
  });

  test('disconnect with a reason and a code of one\'s own', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    await world.api.disconnect(user, { code: 4777, reason: 'Seat given to «another» 🚪' });
    await client.kicked(4777, 'Seat given to «another» 🚪');
  });

  test('disconnect spares the connections in except', async () => {
    const user = someone();
    const clients = [];
    for (let i = 0; i < 3; i += 1) clients.push(await connected(world.door, { user }));
    const answer = await world.api.disconnect(user, { except: [clients[1].id, 'no-such-connection'] });
    assert.deepEqual(answer, { disconnected: 2, nodes: 1, remaining: [] });
    assert.deepEqual((await world.api.user(user)).connections.map((one) => one.id), [clients[1].id]);
    await Promise.all([clients[0].kicked(4500), clients[2].kicked(4500)]);
    await world.api.send(user, 'spared', 1);
    await clients[1].wait('spared');
  });

  test('a disconnected user may come again', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    await world.api.disconnect(user);
    await client.kicked(4500);
    client.socket.connect();
    await client.ready({ nth: 2 });
    assert.equal((await world.api.user(user)).connections.length, 1);
  });

  test('ten disconnects at once agree with each other', async () => {
    const user = someone();
    const clients = await Promise.all(Array.from({ length: 5 }, () => connected(world.door, { user })));
    const answers = await Promise.all(Array.from({ length: 10 }, () => world.api.disconnect(user)));
    for (const answer of answers) assert.deepEqual(answer.remaining, []);
    assert.ok(answers.some((answer) => answer.disconnected === 5) || answers.reduce((sum, answer) => sum + answer.disconnected, 0) >= 5,
      `expected the five to be accounted for, got ${JSON.stringify(answers)}`);
    assert.deepEqual((await world.api.user(user)).connections, []);
    for (const client of clients) await client.kicked(4500);
  });

  // --- user ids -----------------------------------------------------------------------------------------------------

  for (const [what, kind] of HOSTILE) {
    test(`a user id with ${what} goes round unharmed`, async () => {
      const user = kind;
      const client = connect(world.door, { user });
      assert.strictEqual((await client.ready()).userId, user, 'expected ready to name the user');
      const decoy = await connected(world.door, { user: `${user}~decoy` });
      const view = await world.api.user(user);
      assert.strictEqual(view.userId, user, 'expected GET user to name the user');
      assert.deepEqual(view.connections.map((one) => [one.id, one.userId]), [[client.id, user]]);
      assert.strictEqual((await world.api.connection(client.id)).userId, user);
      assert.deepEqual(await world.api.send(user, 'hi', user), { connections: 1, nodes: 1, unconfirmed: 0 });
      assert.deepEqual(await client.wait('hi'), [user]);
      assert.equal((await world.api.ok('POST', '/v1/presence', { users: [user] })).users[user]?.online, true, 'expected presence to know the user');
      const bulk = await world.api.ok('POST', '/v1/events', { messages: [{ user, event: 'bulk', data: 1 }] });
      assert.deepEqual(bulk.results, [{ connections: 1, nodes: 1, unconfirmed: 0 }]);
      assert.ok((await everybody(world.api)).some((one) => one.userId === user), 'expected GET users to list the user');
      assert.deepEqual(await world.api.disconnect(user), { disconnected: 1, nodes: 1, remaining: [] });
      await client.kicked(4500);
      assert.equal((await world.api.user(user)).online, false);
      assert.equal(decoy.socket.connected, true, 'expected the user with a similar id to stay');
    });
  }

  // --- who may, and what is malformed -------------------------------------------------------------------------------

  const wrongKeys = [
    ['no key', null],
    ['an empty key', ''],
    ['a key that differs in the last character', `${API_KEY.slice(0, -1)}!`],
    ['a key that differs in the first character', `!${API_KEY.slice(1)}`],
    ['a key that is one character short', API_KEY.slice(0, -1)],
    ['a key that is one character long', `${API_KEY}0`],
    ['a key in capitals', API_KEY.toUpperCase()],
    ['the key twice', `${API_KEY}${API_KEY}`],
    ['an expired admin token', token('1', { role: 'admin', exp: Math.floor(Date.now() / 1000) - 60 })],
    ['an admin token of another signer', token('1', { role: 'admin' }, { secret: 'another-secret-that-is-also-32-bytes-long' })],
    ['a very long key', 'k'.repeat(6000)],
  ];
  for (const [what, key] of wrongKeys) {
    test(`401 to ${what}`, async () => {
      for (const [method, path, json] of [['GET', '/v1/stats'], ['POST', '/v1/users/1/events', { event: 'x' }], ['POST', '/v1/users/1/disconnect', {}], ['GET', '/v1/nodes'], ['DELETE', '/v1/connections/x']]) {
        expectProblem(await world.api.request(method, path, { key, json }), 401, `${method} ${path} with ${what}`);
      }
    });
  }

  test('401 to a key that is not a Bearer, or in the query', async () => {
    expectProblem(await world.api.request('GET', '/v1/stats', { key: null, headers: { authorization: API_KEY } }), 401, 'a key without a scheme');
    expectProblem(await world.api.request('GET', '/v1/stats', { key: null, headers: { authorization: `Basic ${Buffer.from(`x:${API_KEY}`).toString('base64')}` } }), 401, 'Basic');
    expectProblem(await world.api.request('GET', `/v1/stats?api_key=${API_KEY}&access_token=${API_KEY}`, { key: null }), 401, 'a key in the query');
  });

  test('a JWT whose role is admin is as good as a key; another role is not', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    const admin = token('root', { role: 'admin' });
    assert.equal((await world.api.request('GET', '/v1/stats', { key: admin })).status, 200);
    const done = await world.api.request('POST', `/v1/users/${user}/disconnect`, { key: admin, json: {} });
    assert.equal(done.status, 200, done.text);
    await client.kicked(4500);
    expectProblem(await world.api.request('GET', '/v1/stats', { key: token('7') }), [401, 403], 'a token without a role');
    expectProblem(await world.api.request('GET', '/v1/stats', { key: token('7', { role: 'editor' }) }), [401, 403], 'a token with another role');
  });

  const malformed = [
    ['no JSON', 'this is no JSON'],
    ['half a JSON', '{"event": "x", '],
    ['nothing', ''],
    ['JSON and more', '{"event":"x"} trailing'],
    ['bytes that are no UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d])],
  ];
  for (const [what, body] of malformed) {
    test(`400 to a body of ${what}`, async () => {
      for (const path of ['/v1/users/1/events', '/v1/events', '/v1/broadcast', '/v1/presence']) {
        expectProblem(await world.api.request('POST', path, { body }), 400, `POST ${path} with ${what}`);
      }
    });
  }

  const misshapen = [
    ['/v1/users/1/events', {}],
    ['/v1/users/1/events', { event: '' }],
    ['/v1/users/1/events', { event: 5 }],
    ['/v1/users/1/events', { event: 'x', data: 1, namespace: 7 }],
    ['/v1/users/1/events', { event: 'x', ack: { timeoutMs: -1 } }],
    ['/v1/users/1/events', { event: 'x', ack: { timeoutMs: 'long' } }],
    ['/v1/users/1/events', []],
    ['/v1/events', { messages: 'x' }],
    ['/v1/events', {}],
    ['/v1/broadcast', { data: 1 }],
    ['/v1/presence', { users: [1, {}] }],
    ['/v1/presence', {}],
    ['/v1/users/1/disconnect', { except: 'all' }],
    ['/v1/users/1/disconnect', { code: 'x' }],
    ['/v1/users/1/disconnect', { code: 70000 }],
    ['/v1/users/1/disconnect', { reconnect: 'yes' }],
  ];
  for (const [path, json] of misshapen) {
    test(`422 to POST ${path} with ${JSON.stringify(json)}`, async () => {
      expectProblem(await world.api.request('POST', path, { json }), [400, 422], `POST ${path} with ${JSON.stringify(json)}`);
    });
  }

  test('413 to a body that is too large', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    const answer = await world.api.request('POST', `/v1/users/${user}/events`, { json: { event: 'big', data: 'x'.repeat(3_000_000) } }).catch((error) => ({ error }));
    if (answer.error) {
      // The server may close while we still write; the answer is then lost on the way, but not the point.
      assert.match(answer.error.code ?? '', /^(EPIPE|ECONNRESET)$/, `expected 413 or a closed connection, got ${answer.error}`);
    } else {
      expectProblem(answer, 413, 'a body of 3 MB');
    }
    await world.api.send(user, 'end', 1);
    await client.wait('end');
    assert.equal(client.count('big'), 0);
  });

  test('413 to an announced length that is too large, before the body is sent', async () => {
    const answer = await world.api.request('POST', '/v1/users/1/events', { body: '', headers: { 'content-length': 50_000_000 }, ms: 5000 }).catch((error) => ({ error }));
    if (answer.error) {
      assert.fail(`expected 413 at once to "Content-Length: 50000000", got ${answer.error.message}`);
    }
    expectProblem(answer, 413, 'an announced body of 50 MB');
  });

  test('404 to what is no route, 405 to what is no method', async () => {
    for (const path of ['/v1', '/v1/', '/v1/nothing', '/v1/users/1/nothing', '/v1/users/1/events/more', '/v1//stats']) {
      expectProblem(await world.api.request('GET', path), [404, 405], `GET ${path}`);
    }
    assert.equal((await world.api.request('DELETE', '/v1/stats')).status, 405);
    assert.equal((await world.api.request('GET', '/v1/broadcast')).status, 405);
  });

  test('the OpenAPI document names every call, and the page loads nothing from elsewhere', async () => {
    const document = await world.api.ok('GET', '/v1/openapi.json');
    assert.match(document.openapi, /^3\.1\./);
    const calls = [
      ['/v1/users/{user}/events', 'post'], ['/v1/events', 'post'], ['/v1/broadcast', 'post'], ['/v1/users/{user}', 'get'], ['/v1/users', 'get'],
      ['/v1/presence', 'post'], ['/v1/users/{user}/disconnect', 'post'], ['/v1/connections/{id}', 'get'], ['/v1/connections/{id}', 'delete'],
      ['/v1/nodes', 'get'], ['/v1/stats', 'get'],
    ];
    for (const [path, method] of calls) assert.ok(document.paths[path]?.[method], `expected ${method.toUpperCase()} ${path} in the OpenAPI document`);
    let page = await world.api.request('GET', '/v1/docs');
    for (let hops = 0; page.status >= 300 && page.status < 400 && hops < 3; hops += 1) page = await world.api.request('GET', new URL(page.headers.location, `${world.desk.url}/v1/docs`).pathname);
    assert.equal(page.status, 200, `expected a page at /v1/docs, got ${page.status}`);
    assert.match(page.headers['content-type'], /^text\/html/);
    assert.doesNotMatch(page.text, /(?:src|href)\s*=\s*["']?(?:https?:)?\/\//i, 'expected the page to load nothing from elsewhere');
  });
});

test('keys with scopes may do what their scopes say', async ({ node }) => {
  const scopes = ['read', 'send', 'disconnect', 'admin'];
  const key = (scope) => `key-with-the-scope-${scope}-0123456789`;
  const door = await node({ config: scopes.map((scope) => `[[api.keys]]\nname = "${scope}-only"\nkey = "${key(scope)}"\nscopes = ["${scope}"]\n`).join('\n') });
  const calls = [
    ['GET', '/v1/stats', undefined, 'read'],
    ['GET', '/v1/nodes', undefined, 'read'],
    ['GET', '/v1/users', undefined, 'read'],
    ['GET', '/v1/users/1', undefined, 'read'],
    ['POST', '/v1/presence', { users: ['1'] }, 'read'],
    ['POST', '/v1/users/1/events', { event: 'x' }, 'send'],
    ['POST', '/v1/events', { messages: [] }, 'send'],
    ['POST', '/v1/broadcast', { event: 'x' }, 'send'],
    ['POST', '/v1/users/1/disconnect', {}, 'disconnect'],
  ];
  for (const [method, path, json, scope] of calls) {
    for (const held of ['read', 'send', 'disconnect']) {
      const answer = await door.api.request(method, path, { json, key: key(held) });
      if (held === scope) assert.equal(answer.status, 200, `expected 200 to ${method} ${path} with the scope ${held}, got ${answer.status}: ${answer.text}`);
      else expectProblem(answer, 403, `${method} ${path} with only the scope ${held}`);
    }
    assert.equal((await door.api.request(method, path, { json })).status, 200, `expected the key of SWITCHBOARD_API_KEY to have every scope (${method} ${path})`);
  }
  expectProblem(await door.api.request('GET', '/v1/stats', { key: `${key('read')}x` }), 401, 'a scoped key with one more character');
});
