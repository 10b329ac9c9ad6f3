// Contract 14 when something breaks while a call is under way: its node dies, Redis restarts, or its answer to what is published is lost.

import assert from 'node:assert/strict';
import { connected, eventually, exchange, expectProblem, segment, someone, test } from './harness.mjs';

const send = (node, user, key, json) => node.api.request('POST', `/v1/users/${segment(user)}/events`, { json, headers: { 'idempotency-key': key } });
const readyz = async (node) => (await exchange(node.url, 'GET', '/readyz')).status;

test('the node of a call dies: the call is under way for a while, and then made again without being handed over again', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const [dies, holds] = [await node({ redis: store, name: 'dies' }), await node({ redis: store, name: 'holds' })];
  const user = someone('claimed');
  // It answers no acknowledgement, so the call waits.
  const client = await connected(holds, { user });
  const call = { event: 'once', data: 7, ack: { timeoutMs: 30000 } };
  const lost = send(dies, user, 'k', call).catch(() => undefined);
  await client.wait('once');
  await dies.kill();
  assert.equal(await lost, undefined, 'nobody has answered');
  const again = await send(holds, user, 'k', call);
  expectProblem(again, 409, 'the first is under way, for all that anybody knows');
  assert.equal(again.json.code, 'call_under_way');
  client.answer('once', 'late');
  await eventually('the claim of the dead node is over', async () => {
    const answer = await send(holds, user, 'k', call);
    assert.equal(answer.status, 200);
    assert.deepEqual([answer.json.connections, answer.json.nodes], [1, 1], 'to how many it was handed the first time');
  }, { ms: 60000, every: 500 });
  const replayed = await send(holds, user, 'k', call);
  assert.equal(replayed.headers['idempotent-replayed'], 'true');
  await send(holds, user, 'after', { event: 'mark' });
  await client.wait('mark');
  assert.equal(client.count('once'), 1, client.history());
});

for (const keeps of [true, false]) {
  test(`Redis restarts ${keeps ? 'with' : 'without'} its data during a call: it is made once, and its answer kept`, { ms: 90000 }, async ({ node, redis }) => {
    const store = await redis({ keeps });
    const settings = { redis: store, env: { SWITCHBOARD_REGISTRY__HEARTBEAT: '300ms', SWITCHBOARD_REGISTRY__LEASE: '3s' } };
    const nodes = [await node({ ...settings, name: 'one' }), await node({ ...settings, name: 'two' })];
    const user = someone('restart');
    const client = await connected(nodes[0], { user });
    let answer;
    client.socket.on('slow', (ack) => (answer = ack));
    const call = { event: 'slow', ack: { timeoutMs: 25000 } };
    const first = send(nodes[0], user, 'k', call);
    await client.wait('slow');
    await store.stop();
    for (const it of nodes) await eventually('it is not ready', async () => assert.equal(await readyz(it), 503), { ms: 15000 });
    expectProblem(await send(nodes[1], user, 'k', call), 503, 'while Redis is away');
    await store.start();
    for (const it of nodes) await eventually('it is ready', async () => assert.equal(await readyz(it), 200), { ms: 20000 });
    answer('done');
    const { status, json } = await first;
    assert.deepEqual([status, json.acks], [200, [{ connectionId: client.id, data: 'done' }]]);
    await eventually('the answer is kept', async () => {
      const again = await send(nodes[1], user, 'k', call);
      assert.deepEqual([again.status, again.json], [200, json]);
      assert.equal(again.headers['idempotent-replayed'], 'true');
    });
    assert.equal(client.count('slow'), 1, client.history());
  });
}

test('Redis publishes and its answer is lost: 504, and the repetition is handed over just to those who have not got it', { ms: 90000 }, async ({ node, redis, link }) => {
  const store = await redis();
  const way = await link(store);
  const [asked, other] = [await node({ redis: way, name: 'asked' }), await node({ redis: store, name: 'other' })];
  const user = someone('unknown');
  const [near, far] = [await connected(asked, { user, claims: { rooms: ['unknown'] } }), await connected(other, { user, claims: { rooms: ['unknown'] } })];
  const calls = {
    user: [`/v1/users/${segment(user)}/events`, [0, 1]],
    room: ['/v1/rooms/unknown/events', [0, 1]],
    connection: [`/v1/connections/${segment(far.id)}/events`, [0, 1]],
  };
  for (const [event, [path, unheard]] of Object.entries(calls)) {
    const call = (from) => from.api.request('POST', path, { json: { event }, headers: { 'idempotency-key': `lost-${event}` } });
    const got = () => [near, far].map((client) => client.count(event));
    way.deafenAfter(/SPUBLISH/);
    const first = await call(asked);
    expectProblem(first, 504, `${event}: Redis has not answered`);
    assert.equal(first.json.code, 'outcome_unknown');
    way.heal();
    await far.wait(event);
    assert.deepEqual(got(), unheard, `${event}: this node waits for Redis' answer before it hands over anything`);
    await eventually(`${event}: the node is ready again`, async () => assert.equal(await readyz(asked), 200), { ms: 15000 });
    const to = event === 'connection' ? [far] : [near, far];
    const whole = { connections: to.length, nodes: to.length, unconfirmed: 0 };
    let again;
    await eventually(`${event}: it is carried out again`, async () => {
      again = await call(asked);
      assert.deepEqual([again.status, again.json], [200, whole], 'expected all who have it, by the first call or the second');
    }, { ms: 20000 });
    assert.equal(again.headers['idempotent-replayed'], undefined, 'it was no repetition of an answer: there was none');
    for (const from of [asked, other]) {
      const replayed = await call(from);
      assert.deepEqual([replayed.status, replayed.json, replayed.headers['idempotent-replayed']], [200, whole, 'true']);
    }
    // In order for a client: had one come twice, it would be before this.
    await send(asked, user, `mark-${event}`, { event: `mark-${event}` });
    for (const client of [near, far]) await client.wait(`mark-${event}`);
    assert.deepEqual(got(), event === 'connection' ? [0, 1] : [1, 1], far.history());
  }
});
