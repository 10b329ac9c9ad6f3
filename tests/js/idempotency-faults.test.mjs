// Contract 14 when something breaks while a call is under way: its node dies, Redis restarts.

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
