// Notifications when Redis restarts, with its data and without.

import assert from 'node:assert/strict';
import { connected, eventually, exchange, someone, test } from './harness.mjs';
import { calling, startBackend } from './support/backend.mjs';

const FACTS = ['connection.opened', 'connection.closed', 'user.online', 'user.offline'];

async function scene({ node, owned }, store) {
  const backend = await startBackend();
  backend.queued = ['track:view'];
  owned(() => backend.stop());
  const env = {
    ...calling({ url: backend.url, notify: FACTS, queue: ['track:*'] }),
    SWITCHBOARD_PRESENCE__OFFLINE_DELAY: '300ms',
    SWITCHBOARD_REGISTRY__HEARTBEAT: '300ms',
    SWITCHBOARD_REGISTRY__LEASE: '3s',
  };
  const nodes = [await node({ redis: store, env, name: 'one' }), await node({ redis: store, env, name: 'two' })];
  const ready = async (status) => {
    for (const it of nodes) await eventually(`/readyz is ${status}`, async () => assert.equal((await exchange(it.url, 'GET', '/readyz')).status, status), { ms: 20000 });
  };
  return { backend, nodes, ready };
}

const viewed = (backend, user) => backend.calls.filter(({ data }) => data.connection?.userId === user && data.event === 'track:view');

test('a restart of Redis with its data loses no notification', { ms: 90000 }, async (t) => {
  const store = await t.redis({ keeps: true });
  const { backend, nodes, ready } = await scene(t, store);
  const user = someone('tracked');
  const client = await connected(nodes[0], { user });
  await eventually('the backend has what came before', () => assert.equal(backend.calls.length, 2));
  const refuse = () => (response) => response.writeHead(500).end();
  for (const kind of ['track:view', ...FACTS]) backend.on(kind, refuse);
  for (let n = 0; n < 20; n += 1) assert.deepEqual(await client.ask('track:view', n), { ok: true });
  const leaves = await connected(nodes[1], { user: someone('leaves') });
  leaves.socket.disconnect();
  await eventually('it is gone', async () => assert.equal((await nodes[0].api.request('GET', `/v1/connections/${leaves.id}`)).status, 404));

  await store.stop();
  await ready(503);
  await store.start();
  await ready(200);
  const refused = new Map(viewed(backend, user).map(({ headers, data }) => [data.args[0], headers['webhook-id']]));
  const before = backend.calls.length;
  backend.answers = {};
  await eventually('all of them come', () => {
    const came = backend.calls.slice(before);
    const numbers = viewed({ calls: came }, user).map(({ data }) => data.args[0]);
    assert.deepEqual([...new Set(numbers)], Array.from({ length: 20 }, (_, n) => n), 'in order');
    const of = (kind) => came.filter(({ type, data }) => type === kind && (data.connection?.id ?? leaves.id) === leaves.id).length;
    assert.ok(of('connection.closed') >= 1 && of('user.offline') >= 1);
  }, { ms: 60000 });
  for (const { data, headers } of viewed(backend, user)) {
    const known = refused.get(data.args[0]);
    if (known) assert.equal(headers['webhook-id'], known, 'the same id each time');
  }
  assert.equal(client.count('disconnect'), 0);
  assert.deepEqual(backend.wrong, []);
});

test('a restart of Redis without its data makes nothing up', { ms: 90000 }, async (t) => {
  const store = await t.redis();
  const { backend, nodes, ready } = await scene(t, store);
  const [user, mark] = [someone('stays'), someone('mark')];
  const clients = [await connected(nodes[0], { user }), await connected(nodes[1], { user })];
  await eventually('the backend is told', () => assert.equal(backend.calls.length, 3));
  await store.stop();
  await ready(503);
  await store.start();
  await ready(200);
  await eventually('all are listed again', async () => assert.equal((await nodes[0].api.user(user)).connections.length, 2), { ms: 20000 });
  const late = await connected(nodes[1], { user: mark });
  late.socket.disconnect();
  const types = (who) => backend.calls.filter(({ data }) => (data.userId ?? data.connection.userId) === who).map(({ type }) => type);
  await eventually('who comes and goes is told of', () => assert.deepEqual(types(mark), ['connection.opened', 'user.online', 'connection.closed', 'user.offline']), { ms: 20000 });
  assert.deepEqual(types(user), ['connection.opened', 'user.online', 'connection.opened'], 'nobody came or went');
  for (const client of clients) assert.equal(client.count('disconnect'), 0);
});
