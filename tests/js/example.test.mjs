// examples/app: the chat's backend, as its README runs it. server.py runs by the Python that EXAMPLE_PYTHON names: tests/run makes it.

import assert from 'node:assert/strict';
import { connected, eventually, exchange, test } from './harness.mjs';
import { startExample } from './support/example.mjs';

const backends = [[process.execPath, 'server.mjs'], ...(process.env.EXAMPLE_PYTHON ? [[process.env.EXAMPLE_PYTHON, 'server.py']] : [])];

for (const [command, file] of backends) {
  test(`the chat of ${file}: login, messages, typing, presence, kick`, async (t) => {
    const { door, base, post } = await startExample(t, command, file);
    assert.equal((await post('/login', { name: 'mallory' })).status, 401);
    const tokens = {};
    for (const name of ['alice', 'bob']) {
      const { json } = await post('/login', { name });
      assert.equal(json.url, door.url);
      tokens[name] = json.token;
    }
    const alice = await connected(door, { token: tokens.alice });
    await alice.wait('presence', { nth: 2 });
    const bob = await connected(door, { token: tokens.bob });
    await eventually('alice sees bob come', async () => assert.ok(alice.seen.some(({ name, args }) => name === 'presence' && args[0].userId === 'bob' && args[0].online)));

    const said = await alice.ask('chat:say', 'hello <b>bob</b>');
    assert.equal(said.ok, true);
    for (const client of [alice, bob]) {
      const [message] = await client.wait('said');
      assert.deepEqual(message, { from: 'alice', text: 'hello <b>bob</b>', at: said.at });
    }
    assert.deepEqual(await alice.ask('chat:say', ' '), { ok: false, error: 'Say something' });
    assert.deepEqual(await bob.ask('chat:typing'), { ok: true });
    assert.deepEqual(await alice.wait('typing'), [{ from: 'bob' }]);
    assert.equal(bob.count('typing'), 0);
    assert.deepEqual(await bob.ask('chat:nothing'), { ok: false, error: 'Unknown event' });

    assert.equal((await post('/kick/bob', {})).status, 401);
    const kicked = await post('/kick/bob', {}, { authorization: `Bearer ${tokens.alice}` });
    assert.deepEqual(kicked, { status: 200, json: { disconnected: 1, nodes: 1, remaining: [] } });
    await bob.kicked(4500, 'Kicked by alice');
    await eventually('alice sees bob go', async () => {
      const told = alice.seen.filter(({ name, args }) => name === 'presence' && args[0].userId === 'bob');
      assert.equal(told.at(-1).args[0].online, false);
    });
    const forged = await exchange(base, 'POST', '/switchboard', { body: '{"data":{"event":"chat:say"}}' });
    assert.equal(forged.status, 401, 'nobody but Switchboard is heard');
  });
}
