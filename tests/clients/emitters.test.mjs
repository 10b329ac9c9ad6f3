// Contract 15: python-socketio's write-only manager, as it is on PyPI, reaches the clients of every node, once each.

import assert from 'node:assert/strict';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before, connected, describe, eventually, parseMetrics, Running, someone, startNode, startRedis, test } from '../js/harness.mjs';

const file = (name) => fileURLToPath(new URL(name, import.meta.url));
const tools = process.env.CLIENTS_TOOLS ?? file('../../target/tools');
const PYTHON = path.join(tools, 'clients-python/bin/python');

for (const kind of ['sync', 'async']) {
  describe(`python-socketio's manager, ${kind}`, () => {
    let redis;
    let nodes;
    let python;
    let calls = 0;
    const call = async (method, args, named = {}) => {
      python.child.stdin.write(`${JSON.stringify([method, args, named])}\n`);
      calls += 1;
      await eventually(`${method} has returned`, () => python.lines.filter((line) => line === 'done').length === calls);
    };
    const value = async (node, name, labels) => parseMetrics((await node.api.request('GET', '/metrics')).text).value(`switchboard_ingress_${name}`, labels);

    before(async () => {
      redis = await startRedis();
      nodes = await Promise.all(['one', 'two', 'three'].map((name) => startNode({ redis, name, config: '[ingress.python]\nnamespaces = ["/", "/public"]\n' })));
      python = new Running(PYTHON, [file('python/emit.py'), kind, redis.url], { name: 'emit.py', stdin: 'pipe' });
      await python.line(/^ready$/);
      for (const node of nodes) await eventually(`${node.name} listens`, async () => assert.equal(await value(node, 'up', { source: 'python' }), 1));
    });
    after(async () => {
      await python?.kill();
      await Promise.all((nodes ?? []).map((node) => node.kill()));
      await redis?.stop();
    });

    test('what it emits arrives once on each node, with its arguments', async () => {
      const user = someone('python');
      const ones = await Promise.all(nodes.map((node) => connected(node, { user })));
      const others = await Promise.all(nodes.map((node) => connected(node, { user: someone() })));
      const guest = await connected(nodes[0], { namespace: '/public' });
      const room = { room: `user:${user}` };
      await call('emit', ['object', { text: 'grüße', list: [1, null] }], room);
      await call('emit', ['several', { tuple: [1, ['two']] }], room);
      await call('emit', ['none', null], room);
      await call('emit', ['bytes', { tuple: [{ $base64: 'AAH/' }, { file: { $base64: 'eA==' } }] }], room);
      await call('emit', ['but-one', 1], { ...room, skip_sid: ones[0].id });
      await call('emit', ['one', 1], { to: ones[1].id });
      await call('enter_room', [ones[2].id, '/', 'team']);
      await call('enter_room', [others[0].id, '/', 'team']);
      await call('leave_room', [others[0].id, '/', 'team']);
      await call('emit', ['team', 1], { room: 'team' });
      await call('emit', ['open', 1], { namespace: '/public' });
      await call('emit', ['fence', 1]);
      await Promise.all([...ones, ...others].map((client) => client.wait('fence')));
      await guest.wait('open');
      const got = (client) => client.seen.filter(({ name }) => !['connect', 'ready', 'fence'].includes(name)).map(({ name, args }) => [name, ...args]);
      for (const client of ones) {
        const expected = [
          ['object', { text: 'grüße', list: [1, null] }],
          ['several', 1, ['two']],
          ['none'],
          ['bytes', Buffer.from([0, 1, 255]), { file: Buffer.from('x') }],
        ];
        if (client !== ones[0]) expected.push(['but-one', 1]);
        if (client === ones[1]) expected.push(['one', 1]);
        if (client === ones[2]) expected.push(['team', 1]);
        assert.deepEqual(got(client), expected, client.history());
      }
      for (const client of others) assert.deepEqual(got(client), [], client.history());
    });

    // It disconnects through a server of its own only: without one it raises before it has published anything.
    test('nothing that it publishes is unreadable', async () => {
      for (const node of nodes) assert.equal(await value(node, 'refused_total', { source: 'python' }), 0);
    });
  });
}
