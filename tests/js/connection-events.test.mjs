// Sends to one connection, by its id.

import assert from 'node:assert/strict';
import { connected, expectProblem, onBothRegistries, segment, someone, test } from './harness.mjs';

onBothRegistries((world) => {
  const send = (id, json, options) => world.api.request('POST', `/v1/connections/${segment(id)}/events`, { json, ...options });

  test('POST /v1/connections/{id}/events reaches that connection and no other of its user', async () => {
    const user = someone('pair');
    const [one, other] = [await connected(world.door, { user }), await connected(world.door, { user })];
    const answer = await send(one.id, { event: 'hello', data: { n: 1 } });
    assert.deepEqual([answer.status, answer.json], [200, { connections: 1, nodes: 1, unconfirmed: 0 }]);
    assert.deepEqual(await one.wait('hello'), [{ n: 1 }]);
    await world.api.send(user, 'still', 1);
    await other.wait('still');
    assert.equal(other.count('hello'), 0, other.history());
    // A guest's, in another namespace, and without an argument.
    const guest = await connected(world.door, { namespace: '/public' });
    assert.equal((await send(guest.id, { event: 'hello' })).json.connections, 1);
    assert.deepEqual(await guest.wait('hello'), []);
  });

  test('a send to a connection that is not there, or not any more, is an answer with zeros', async () => {
    const client = await connected(world.door, { user: someone('gone') });
    await world.api.ok('DELETE', `/v1/connections/${client.id}`);
    for (const id of [client.id, 'made-up', '..']) {
      const answer = await send(id, { event: 'hello' });
      assert.deepEqual([answer.status, answer.json], [200, { connections: 0, nodes: 0, unconfirmed: 0 }], id);
    }
  });

  test('what can not be sent to a connection is refused as to a user', async () => {
    const client = await connected(world.door, { user: someone('picky') });
    for (const [json, status, code] of [
      [{ event: 'connect' }, 422, 'reserved_event'],
      [{ event: '' }, 422, 'invalid_event'],
      [{ data: 1 }, 400, 'malformed'],
      [{ event: 'e', device: 'phone' }, 400, 'malformed'],
      [{ event: 'e', namespace: '/nowhere' }, 422, 'unknown_namespace'],
      [{ event: 'e', data: 'x'.repeat(1_000_001) }, 413, 'payload_too_large'],
    ]) {
      const answer = await send(client.id, json);
      expectProblem(answer, status, JSON.stringify(json).slice(0, 50));
      assert.equal(answer.json.code, code);
    }
    expectProblem(await send(client.id, { event: 'e' }, { key: 'a-wrong-key-0123456789' }), 401, 'a wrong key');
  });
});
