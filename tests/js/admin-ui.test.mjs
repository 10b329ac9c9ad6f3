// Contract 16: the protocol of @socket.io/admin-ui, as its page speaks it. The page itself, in a browser, is in tests/console.

import assert from 'node:assert/strict';
import { after, before, connect, connected, describe, eventually, onBothRegistries, parseMetrics, someone, startNode, startRedis, test } from './harness.mjs';

/** bcrypt of "correct horse". */
export const HASH = '$2b$04$zGvCl1/v9qKDq3P2xNfCDe0kqHYhLDcG5XHbI.BsPGroZcC0Avn5S';
const RIGHT = { username: 'ops', password: 'correct horse' };
const configured = (more = '') => `[[namespaces]]
path = "/"
client_rooms = ["chat:*"]
[[namespaces]]
path = "/public"
auth = "none"
[admin_ui]
username = "ops"
password_hash = "${HASH}"
${more}`;

const page = (node, auth = RIGHT, options = {}) => connect(node, { namespace: '/ui', auth, label: 'the page', ...options });
const got = (client, name) => client.seen.filter((one) => one.name === name).map(({ args }) => args);
/** Opens a page, and waits until it has what it begins with. */
async function opened(node, auth, options) {
  const client = page(node, auth, options);
  await client.wait('all_sockets');
  return client;
}
const about = (client, name, id) => got(client, name).filter((args) => JSON.stringify(args).includes(id));
const told = (client, name, id) => eventually(`the page is told ${name} of ${id}`, () => {
  const last = about(client, name, id).at(-1);
  assert.ok(last, client.history());
  return last;
});

onBothRegistries((world) => {
  test('whoever has not the right name and password is told "invalid credentials", and nothing else', async () => {
    for (const auth of [{}, { token: 'x' }, { username: 'ops' }, { username: 'ops', password: '' }, { username: 'ops', password: 'wrong' }, { username: 'other', password: RIGHT.password },
      { password: RIGHT.password }, { username: 1, password: { a: 1 } }, { sessionId: '0123456789abcdef' }, { sessionId: null }, { sessionId: ['x'] }]) {
      const refused = page(world.door, auth);
      await refused.refused('invalid credentials');
      assert.deepEqual(refused.seen.map(({ name }) => name), ['connect_error']);
    }
    const { value } = parseMetrics((await world.door.api.request('GET', '/metrics')).text);
    assert.ok(value('switchboard_connect_errors_total', { reason: 'operator' }) >= 11);
  });

  test('a login begins a session, by which a page comes back on every node', async () => {
    const first = await opened(world.door);
    const begin = first.seen.map(({ name }) => name).filter((name) => name !== 'server_stats').slice(0, 4);
    assert.deepEqual(begin, ['connect', 'session', 'config', 'all_sockets']);
    const [[sessionId]] = got(first, 'session');
    assert.match(sessionId, /^[0-9a-f]{16}$/);
    assert.deepEqual(got(first, 'config'), [[{ supportedFeatures: ['EMIT', 'JOIN', 'LEAVE', 'DISCONNECT', 'MJOIN', 'MLEAVE', 'MDISCONNECT', 'AGGREGATED_EVENTS', 'ALL_EVENTS'] }]]);
    const again = await opened(world.desk, { sessionId });
    assert.equal(again.count('session'), 0);
    assert.equal(again.count('config'), 1);
  });

  test('each node is a server of its own, with its clients', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    await client.join('/public').ready();
    const ui = await opened(world.desk);
    const named = world.count === 2 ? ['desk', 'door'] : ['alone'];
    await eventually('each node says how it is', () => {
      const stats = got(ui, 'server_stats').map(([one]) => one);
      assert.deepEqual([...new Set(stats.map(({ serverId }) => serverId))].sort(), named);
      const { hostname, pid, uptime, clientsCount, pollingClientsCount, namespaces } = stats.findLast(({ serverId }) => serverId === named.at(-1));
      assert.ok(hostname && Number.isInteger(pid) && uptime > 0);
      assert.ok(clientsCount >= 1, JSON.stringify(stats));
      assert.equal(pollingClientsCount, 0);
      assert.deepEqual(namespaces.map(({ name }) => name), ['/', '/public']);
      assert.ok(namespaces.every(({ socketsCount }) => socketsCount >= 1));
    });
    await client.ask('something', 'x'.repeat(1000));
    await eventually('what was sent is counted', () => {
      const counts = got(ui, 'server_stats').flatMap(([{ aggregatedEvents }]) => aggregatedEvents);
      assert.ok(counts.some(({ type, count, timestamp }) => type === 'bytesIn' && count > 1000 && timestamp % 1000 === 0), JSON.stringify(counts));
      assert.ok(counts.some(({ type }) => type === 'packetsIn'));
    });
    ui.socket.close();
  });

  test('a connection is shown by its own id, with its user and rooms and without credentials', async () => {
    const user = someone();
    const client = await connected(world.door, { user, deviceId: 'phone', claims: { username: 'Ann' }, extraHeaders: { cookie: 'a=secret-cookie', authorization: 'Bearer secret-bearer', 'user-agent': 'the agent' } });
    await client.granted('join', 'chat:1');
    const guest = client.join('/public');
    await guest.ready();
    const ui = await opened(world.desk);
    const shown = got(ui, 'all_sockets').at(-1)[0];
    const one = shown.find(({ id }) => id === client.id);
    assert.ok(one, JSON.stringify(shown));
    const { address, headers, query, issued, url } = one.handshake;
    assert.deepEqual({ ...one, handshake: 0 }, {
      id: client.id, clientId: client.id, transport: 'websocket', nsp: '/', rooms: [client.id, 'chat:1'], handshake: 0,
      data: { ...one.data, userId: user, username: 'Ann', deviceId: 'phone', nodeId: world.door.name },
    });
    assert.deepEqual([address, headers, query, url], ['127.0.0.1', { 'user-agent': 'the agent' }, {}, '/socket.io/']);
    assert.ok(Math.abs(issued - Date.now()) < 60000);
    assert.equal(shown.find(({ id }) => id === guest.id).clientId, client.id);
    assert.ok(shown.every(({ nsp }) => nsp !== '/ui'));
    const all = JSON.stringify(ui.seen);
    assert.ok(!/secret-|eyJ/.test(all), all);
    // An operator is nobody's user.
    const { users } = await world.api.ok('GET', '/v1/users?limit=1000');
    assert.ok(users.every(({ userId }) => userId !== 'ops'));
    assert.equal((await world.api.request('GET', `/v1/connections/${ui.socket.id}`)).status, 404);
  });

  test('the page is told who comes, joins, leaves, speaks, is sent to and goes', async () => {
    const ui = await opened(world.desk);
    const user = someone();
    const client = await connected(world.door, { user, transports: ['polling', 'websocket'] });
    const [socket, at] = await told(ui, 'socket_connected', client.id);
    assert.equal(socket.id, client.id);
    assert.ok(Math.abs(new Date(at) - Date.now()) < 60000);
    await eventually('it moves to a WebSocket', () => {
      const shown = [...about(ui, 'socket_connected', client.id), ...about(ui, 'socket_updated', client.id)].at(-1)[0];
      assert.equal(shown.transport, 'websocket');
    });
    await client.granted('join', 'chat:2');
    assert.deepEqual((await told(ui, 'room_joined', client.id)).slice(0, 3), ['/', 'chat:2', client.id]);
    await client.granted('leave', 'chat:2');
    assert.deepEqual((await told(ui, 'room_left', client.id)).slice(0, 3), ['/', 'chat:2', client.id]);
    await client.granted('join', 'chat:3');
    await client.ask('hello', 'what-is-said');
    await eventually('the page is told of an event', () => assert.ok(about(ui, 'event_received', client.id).some(([, , [event, { bytes }]]) => event === 'hello' && bytes > 10)));
    await world.api.send(user, 'news', 'what-is-sent');
    await eventually('the page is told of a message', () => {
      assert.ok(got(ui, 'event_sent').some(([nsp, to, [event, how]]) => nsp === '/' && to === user && event === 'news' && how.connections === 1), ui.history());
    });
    client.socket.close();
    const [nsp, id, reason] = await told(ui, 'socket_disconnected', client.id);
    assert.deepEqual([nsp, id, reason], ['/', client.id, 'client_disconnect']);
    for (const room of ['chat:3', client.id]) assert.ok(about(ui, 'room_left', client.id).some(([, left]) => left === room), `expected it out of ${room}`);
    assert.ok(!/what-is-/.test(JSON.stringify(ui.seen)), 'expected no payloads');
  });

  test('an operator emits, moves and ends connections of every node, by an id, by a room, or all of a namespace', async () => {
    const ui = await opened(world.desk);
    const clients = await Promise.all([world.door, world.desk].map((node) => connected(node, { user: someone() })));
    const [client, other] = clients;
    ui.socket.emit('join', '/', 'ops:1', client.id);
    await told(ui, 'room_joined', client.id);
    ui.socket.emit('emit', '/', 'ops:1', 'for the room', 1, { two: 2 });
    assert.deepEqual(await client.wait('for the room'), [1, { two: 2 }]);
    ui.socket.emit('emit', '/', other.id, 'for one', Buffer.from('binary'));
    assert.deepEqual((await other.wait('for one')).map(String), ['binary']);
    ui.socket.emit('emit', '/', undefined, 'for all');
    for (const one of clients) await one.wait('for all');
    assert.deepEqual([client.count('for one'), other.count('for the room')], [0, 0]);
    ui.socket.emit('join', '/', 'ops:2', undefined);
    for (const one of clients) await eventually('all are in the room', async () => assert.ok((await world.api.ok('GET', `/v1/connections/${one.id}`)).rooms.includes('ops:2')));
    ui.socket.emit('leave', '/', 'ops:2', client.id);
    await eventually('one has left it', async () => assert.deepEqual((await world.api.ok('GET', `/v1/connections/${client.id}`)).rooms, ['ops:1']));
    const guest = client.join('/public');
    await guest.ready();
    ui.socket.emit('_disconnect', '/public', false, guest.id);
    await guest.kicked(4500);
    assert.equal(client.count('disconnect'), 0);
    ui.socket.emit('_disconnect', '/', true, 'ops:1');
    await client.kicked(4500);
    await told(ui, 'socket_disconnected', client.id);
    assert.equal(other.count('disconnect'), 0);
    ui.socket.emit('_disconnect', '/', true);
    await other.kicked(4500);
  });

  test('what is none of the verbs, or against the rules, is refused and changes nothing', async () => {
    const ui = await opened(world.desk);
    const client = await connected(world.door, { user: someone() });
    for (const asked of [['emit', '/', client.id, 'ready', {}], ['emit', '/ui', null, 'x'], ['emit', '/none', null, 'x'], ['join', '/', 'user:42', client.id], ['emit'], ['emit', '/', {}, 'x'], ['other', '/'],
      ['_disconnect', '/', true, {}], ['_disconnect']]) ui.socket.emit(...asked);
    ui.socket.emit('emit', '/', client.id, 'last');
    await client.wait('last');
    assert.deepEqual(client.seen.map(({ name }) => name), ['connect', 'ready', 'last']);
    assert.deepEqual((await world.api.ok('GET', `/v1/connections/${client.id}`)).rooms, []);
    await eventually('each refusal is in the log', () => assert.ok(world.desk.lines.some((line) => line.includes('what an operator asks for is refused'))));
    assert.ok(world.desk.lines.some((line) => line.includes('admin_ui:ops') && line.includes('emit') && line.includes(client.id)), 'expected a line of the audit');
  });
}, { config: configured() });

test('with read_only a page sees all and can do nothing', async ({ node }) => {
  const door = await node({ config: configured('read_only = true') });
  const ui = await opened(door, RIGHT, { transports: ['polling', 'websocket'] });
  assert.deepEqual(got(ui, 'config'), [[{ supportedFeatures: ['AGGREGATED_EVENTS', 'ALL_EVENTS'] }]]);
  const client = await connected(door, { user: someone() });
  await told(ui, 'socket_connected', client.id);
  ui.socket.emit('_disconnect', '/', true, client.id);
  await eventually('it is refused', () => assert.ok(door.lines.some((line) => line.includes('admin_ui.read_only'))));
  const { text } = await door.api.request('GET', '/metrics');
  assert.ok(parseMetrics(text).value('switchboard_events_refused_total') > 0, 'expected the refusal to be counted');
  await door.api.ok('GET', `/v1/connections/${client.id}`);
  assert.equal(client.count('disconnect'), 0);
});

test('a node has 16 pages at the most, and sends them away when it ends', async ({ node }) => {
  const door = await node({ config: configured() });
  const pages = await Promise.all(Array.from({ length: 16 }, () => opened(door)));
  await page(door).refused('Too many connections');
  pages[0].socket.close();
  await eventually('a place is free again', async () => {
    const one = page(door);
    assert.equal(await Promise.race([one.wait('connect').then(() => 'in'), one.wait('connect_error').then(() => 'out')]), 'in');
  });
  door.signal('SIGTERM');
  assert.equal((await door.end()).code, 0);
  for (const one of pages.slice(1)) await one.wait('disconnect');
});

test('a page stays when the other namespaces of its transport are left', async ({ node }) => {
  const door = await node({ config: configured('[limits]\nhandshake_timeout = "1s"\n') });
  const client = await connected(door, { user: someone() });
  const ui = client.join('/ui', { auth: RIGHT });
  await ui.wait('all_sockets');
  client.socket.disconnect();
  await told(ui, 'socket_disconnected', client.id);
  const before = ui.count('server_stats');
  await eventually('it goes on', () => assert.ok(ui.count('server_stats') > before + 1), { ms: 10000 });
  assert.equal(ui.count('disconnect'), 0);
});

test('without the section there is no such namespace', async ({ node }) => {
  await page(await node()).refused('Invalid namespace');
});

describe('a fleet', () => {
  let redis;
  let nodes;
  before(async () => {
    redis = await startRedis();
    nodes = await Promise.all(['one', 'two'].map((name) => startNode({ redis, name, config: configured('[registry]\nheartbeat = "500ms"\nlease = "2s"\n') })));
  });
  after(async () => {
    await Promise.all((nodes ?? []).map((node) => node.kill()));
    await redis?.stop();
  });

  test('beyond 1,000 connections a page shows a sample of every node, and says so', async () => {
    const users = Array.from({ length: 130 }, () => someone());
    // On few transports: each has a guest too.
    const clients = await Promise.all(users.flatMap((user) => nodes.flatMap((node) => [1, 2].map(() => connected(node, { user })))));
    const guests = await Promise.all(clients.map(async (client) => { const guest = client.join('/public'); await guest.ready(); return guest; }));
    const all = clients.length + guests.length;
    assert.ok(all > 1000);
    // Each node knows its own at once, and of the other's what that has last reported.
    const known = async (node) => (await node.api.ok('GET', '/v1/nodes')).nodes.reduce((sum, { connections }) => sum + connections, 0);
    for (const node of nodes) await eventually(`${node.name} knows of them`, async () => assert.ok((await known(node)) >= all), { ms: 10000 });
    const ui = await opened(nodes[0]);
    const [shown] = got(ui, 'all_sockets').at(-1);
    assert.equal(shown.length, 1000);
    for (const { name } of nodes) assert.equal(shown.filter(({ data }) => data.nodeId === name).length, 500);
    assert.ok(shown.every(({ data }) => data.sample === `1000 of ${all} connections are shown`), JSON.stringify(shown[0]));
    assert.ok(nodes[0].lines.some((line) => line.includes("an operators' page shows a sample")));
    // One that is not shown is not told of.
    const user = someone();
    const late = await connected(nodes[1], { user });
    await nodes[1].api.send(user, 'fence', 1);
    await told(ui, 'event_sent', user);
    assert.equal(about(ui, 'socket_connected', late.id).length, 0);
    const gone = clients.find(({ id }) => shown.some((one) => one.id === id));
    gone.socket.close();
    await told(ui, 'socket_disconnected', gone.id);
  });

  test('the connections of a node that dies are shown no more', async ({ node }) => {
    const dying = await node({ redis, name: 'dying', config: configured('[registry]\nheartbeat = "500ms"\nlease = "2s"\n') });
    const client = await connected(dying, { user: someone() });
    const ui = await opened(nodes[0]);
    const shows = () => got(ui, 'all_sockets').at(-1)[0].some(({ id }) => id === client.id) || about(ui, 'socket_connected', client.id).length > 0;
    await eventually('it is shown', () => assert.ok(shows()));
    await dying.kill();
    await eventually('all are shown anew', () => assert.ok(ui.count('all_sockets') > 1 && !got(ui, 'all_sockets').at(-1)[0].some(({ id }) => id === client.id)), { ms: 30000 });
  });
});
