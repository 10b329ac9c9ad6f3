// Contract 14: a call with an Idempotency-Key is carried out once, on whatever node it arrives.

import assert from 'node:assert/strict';
import { connected, expectProblem, onBothRegistries, segment, someone, test } from './harness.mjs';

let keys = 0;
const fresh = () => ({ 'idempotency-key': `key-${process.pid}-${(keys += 1)}` });

onBothRegistries((world) => {
  const send = (api, user, body, headers) => api.request('POST', `/v1/users/${segment(user)}/events`, { json: body, headers });

  test('the same call gets the first answer again, and sends nothing', async () => {
    const user = someone('once');
    const client = await connected(world.door, { user });
    const headers = fresh();
    const first = await send(world.api, user, { event: 'n', data: 1 }, headers);
    assert.equal(first.status, 200);
    assert.equal(first.json.connections, 1);
    assert.equal(first.headers['idempotent-replayed'], undefined);
    for (const api of [world.api, world.door.api]) {
      const again = await send(api, user, { event: 'n', data: 1 }, headers);
      assert.equal(again.status, 200);
      assert.deepEqual(again.json, first.json);
      assert.equal(again.headers['idempotent-replayed'], 'true');
      assert.match(again.headers['content-type'], /^application\/json/);
    }
    // In order for a client: had one come twice, it would be before this.
    await send(world.api, user, { event: 'n', data: 2 }, fresh());
    assert.deepEqual(await client.wait('n'), [1]);
    assert.deepEqual(await client.wait('n', { nth: 2 }), [2]);
  });

  test('another body or path is 422, and a refusal is an answer like any', async () => {
    const user = someone('other');
    const headers = fresh();
    await send(world.api, user, { event: 'n' }, headers);
    expectProblem(await send(world.api, user, { event: 'm' }, headers), 422, 'another body');
    expectProblem(await send(world.api, someone('else'), { event: 'n' }, headers), 422, 'another path');
    const bad = fresh();
    const refused = await send(world.api, user, { event: 'connect' }, bad);
    expectProblem(refused, 422, 'a reserved name');
    const again = await send(world.api, user, { event: 'connect' }, bad);
    expectProblem(again, 422, 'the same again');
    assert.equal(again.headers['idempotent-replayed'], 'true');
    assert.deepEqual(again.json, refused.json);
  });

  test('a call under way is 409 until it is done', async () => {
    const user = someone('slow');
    const client = await connected(world.door, { user });
    const headers = fresh();
    const body = { event: 'sign', ack: { timeoutMs: 20000 } };
    // Answered by hand, when the second call is through.
    const asked = new Promise((resolve) => client.socket.on('sign', resolve));
    const first = send(world.api, user, body, headers);
    const answer = await asked;
    expectProblem(await send(world.api, user, body, headers), 409, 'under way');
    answer('done');
    const { json } = await first;
    assert.deepEqual(json.acks.map((ack) => ack.data), ['done']);
    const again = await send(world.api, user, body, headers);
    assert.deepEqual(again.json, json);
  });

  // What the embedded registry keeps goes with its node, and what that has handed over as well.
  if (world.registry === 'redis') test('a call whose record is lost is carried out again, and hands nothing over twice', async () => {
    const user = someone('lost');
    const client = await connected(world.door, { user });
    const near = await connected(world.desk, { user: someone('near') });
    const forget = async () => {
      const keys = (await world.redis.command('KEYS', '*:call:*')).split('\r\n').filter((line) => line.includes(':call:'));
      assert.ok(keys.length > 0, 'expected calls to be kept');
      await world.redis.command('DEL', ...keys);
    };
    const ways = {
      user: [`/v1/users/${segment(user)}/events`, { event: 'e' }],
      'user with ack': [`/v1/users/${segment(user)}/events`, { event: 'e', ack: { timeoutMs: 100 } }],
      connection: [`/v1/connections/${segment(client.id)}/events`, { event: 'e' }],
      'a connection of this node': [`/v1/connections/${segment(near.id)}/events`, { event: 'e' }],
      broadcast: ['/v1/broadcast', { event: 'e' }],
      bulk: ['/v1/events', { messages: [{ user, event: 'e' }, { user, event: 'e' }, { room: `user:${user}`, event: 'e' }] }],
    };
    const counts = (json) => (json.results ?? [json]).map(({ connections }) => connections);
    for (const [way, [path, json]] of Object.entries(ways)) {
      const headers = fresh();
      const first = await world.api.request('POST', path, { json, headers });
      await forget();
      const again = await world.api.request('POST', path, { json, headers });
      assert.equal(again.headers['idempotent-replayed'], undefined, way);
      assert.deepEqual(counts(again.json), counts(first.json), `${way}: what it says of the connections`);
      assert.ok(counts(first.json).every((count) => count > 0), way);
    }
    // Behind all of them, on both connections.
    await world.api.ok('POST', '/v1/broadcast', { event: 'end' });
    await Promise.all([client.wait('end'), near.wait('end')]);
    assert.equal(client.count('e'), 2 + 1 + 1 + 3);
    assert.equal(near.count('e'), 1 + 1);
  });

  test('a call that is refused at the door keeps nothing, and its key is free', async () => {
    const user = someone('door');
    const headers = fresh();
    const path = `/v1/users/${segment(user)}/events`;
    const refused = await world.api.request('POST', path, { json: { event: 'n' }, headers, key: 'no such key' });
    expectProblem(refused, 401, 'a wrong key');
    const large = await world.api.request('POST', path, { body: `{"event":"n","data":"${'x'.repeat(3_000_000)}"}`, headers });
    expectProblem(large, 413, 'a large body');
    const sent = await world.api.request('POST', path, { json: { event: 'n' }, headers });
    assert.equal(sent.status, 200);
    assert.equal(sent.headers['idempotent-replayed'], undefined);
  });

  test('ends are ended once, and keys that are none are 422', async () => {
    const user = someone('end');
    await connected(world.door, { user });
    const path = `/v1/users/${segment(user)}/disconnect`;
    const headers = fresh();
    const first = await world.api.request('POST', path, { headers });
    assert.equal(first.json.disconnected, 1);
    const back = await connected(world.door, { user });
    const again = await world.api.request('POST', path, { headers });
    assert.deepEqual(again.json, first.json);
    assert.equal((await world.api.ok('GET', `/v1/users/${segment(user)}`)).connections[0].id, back.id, 'who came since stays');
    for (const key of ['', 'x'.repeat(256)]) {
      expectProblem(await send(world.api, user, { event: 'n' }, { 'idempotency-key': key }), 422, `a key of ${key.length}`);
    }
    assert.equal((await send(world.api, user, { event: 'n' }, { 'idempotency-key': 'x'.repeat(255) })).status, 200);
  });
});
