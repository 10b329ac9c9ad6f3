// The main job: three real processes and a real Redis are one cluster, whichever node is asked.

import assert from 'node:assert/strict';
import { after, before, connect, connected, describe, eventually, expectProblem, someone, startNode, startRedis, test, within } from './harness.mjs';

const NAMES = ['n1', 'n2', 'n3'];

describe('three nodes', () => {
  let redis;
  let nodes;
  before(async () => {
    redis = await startRedis();
    nodes = await Promise.all(NAMES.map((name) => startNode({ redis, name })));
    await eventually('every node sees three nodes', async () => {
      for (const node of nodes) assert.equal((await node.api.nodes()).length, 3);
    });
  });
  after(async () => {
    await Promise.all((nodes ?? []).map((node) => node.kill()));
    await redis?.stop();
  });

  /** One device on each node. */
  const devices = (user, options = {}) =>
    Promise.all(nodes.map((node, i) => connected(node, { user, deviceId: `device-${i}`, label: `${user} on ${node.name}`, ...options })));

  test('three devices on three nodes: the last one is told of all three', async () => {
    const user = someone('tally');
    const told = [];
    for (const [i, node] of nodes.entries()) {
      const { connections, devices, nodeId } = await connect(node, { user, deviceId: `device-${i}` }).ready();
      told.push([connections, devices, nodeId]);
    }
    assert.deepEqual(told, [[1, 1, 'n1'], [2, 2, 'n2'], [3, 3, 'n3']], 'expected [connections, devices, nodeId] in "ready"');
  });

  test('any node\'s view is the same', async () => {
    const user = someone('view');
    const clients = await devices(user);
    const views = await Promise.all(nodes.map((node) => node.api.user(user)));
    for (const view of views) assert.deepEqual(view, views[0], 'expected the same answer from every node');
    assert.deepEqual([views[0].userId, views[0].online, views[0].devices, views[0].connections.length], [user, true, 3, 3]);
    assert.deepEqual(Object.fromEntries(views[0].connections.map((one) => [one.id, one.nodeId])), Object.fromEntries(clients.map((client, i) => [client.id, NAMES[i]])));
    for (const client of clients) {
      const shown = await Promise.all(nodes.map((node) => node.api.connection(client.id)));
      for (const one of shown) assert.deepEqual(one, shown[0], 'expected the same Connection from every node');
    }
    // Who was here before may be leaving yet.
    await eventually('the same stats from every node', async () => {
      const stats = await Promise.all(nodes.map((node) => node.api.stats()));
      for (const one of stats) assert.deepEqual(one, stats[0]);
      assert.equal(stats[0].nodes, 3);
    });
    const presence = await Promise.all(nodes.map((node) => node.api.ok('POST', '/v1/presence', { users: [user] })));
    for (const one of presence) assert.deepEqual(one, presence[0], 'expected the same presence from every node');
  });

  test('a send says {connections: 3, nodes: 3} and reaches all, from any node', async () => {
    const user = someone('send');
    const clients = await devices(user);
    for (const [i, node] of nodes.entries()) {
      assert.deepEqual(await node.api.send(user, 'news', { from: node.name }), { connections: 3, nodes: 3, unconfirmed: 0 }, `expected it from ${node.name}`);
      for (const client of clients) assert.deepEqual(await client.wait('news', { nth: i + 1 }), [{ from: node.name }]);
    }
    for (const client of clients) assert.equal(client.count('news'), 3, `expected nothing twice; ${client.label} got: ${client.history()}`);
  });

  test('a send from a node that has none of the user\'s connections', async () => {
    const user = someone('elsewhere');
    const clients = [await connected(nodes[1], { user }), await connected(nodes[1], { user })];
    assert.deepEqual(await nodes[0].api.send(user, 'hello', 1), { connections: 2, nodes: 1, unconfirmed: 0 });
    for (const client of clients) await client.wait('hello');
    const last = await connected(nodes[2], { user });
    assert.deepEqual(await nodes[0].api.send(user, 'again', 2), { connections: 3, nodes: 2, unconfirmed: 0 });
    await last.wait('again');
  });

  test('one connection is sent to through any node', async () => {
    const user = someone('one');
    const clients = await devices(user);
    for (const node of nodes) {
      const { results } = await node.api.ok('POST', '/v1/events', { messages: clients.map((client, i) => ({ connection: client.id, event: node.name, data: i })) });
      assert.deepEqual(results, clients.map(() => ({ connections: 1, nodes: 1, unconfirmed: 0 })));
      for (const [i, client] of clients.entries()) {
        assert.deepEqual(await client.wait(node.name), [i]);
        assert.equal(client.count(node.name), 1);
      }
    }
  });

  test('acks are collected from all three nodes', async () => {
    const user = someone('acks');
    const clients = await devices(user);
    clients.forEach((client, i) => client.answer('ask', i));
    const answer = await nodes[1].api.send(user, 'ask', null, { ack: { timeoutMs: 5000 } });
    assert.deepEqual([answer.connections, answer.nodes, answer.missing], [3, 3, 0], JSON.stringify(answer));
    assert.deepEqual(Object.fromEntries(answer.acks.map((ack) => [ack.connectionId, ack.data])), Object.fromEntries(clients.map((client, i) => [client.id, i])));
  });

  test('a broadcast says {nodes: 3} and reaches everybody once', async () => {
    const clients = await Promise.all(nodes.flatMap((node) => [connected(node, { user: someone() }), connected(node, { user: someone() })]));
    for (const node of nodes) {
      const answer = await node.api.ok('POST', '/v1/broadcast', { event: `all-from-${node.name}`, data: 1 });
      assert.deepEqual([answer.nodes, answer.unconfirmed, answer.connections >= 6], [3, 0, true], JSON.stringify(answer));
    }
    for (const client of clients) for (const name of NAMES) await client.wait(`all-from-${name}`);
    for (const client of clients) for (const name of NAMES) assert.equal(client.count(`all-from-${name}`), 1, `expected nothing twice; ${client.label} got: ${client.history()}`);
  });

  for (const asked of NAMES.keys()) {
    test(`when disconnect answers, all are closed and gone from every view (asked: ${NAMES[asked]})`, async () => {
      const user = someone('disconnect');
      const clients = await devices(user);
      const answer = await nodes[asked].api.disconnect(user, { reason: 'Account suspended' });
      const views = await Promise.all(nodes.map((node) => node.api.user(user)));
      assert.deepEqual(answer, { disconnected: 3, nodes: 3, remaining: [] });
      for (const [i, view] of views.entries()) assert.deepEqual([view.online, view.connections], [false, []], `expected nothing in the view of ${NAMES[i]} once disconnect has answered`);
      for (const client of clients) expectProblem(await nodes[asked].api.request('GET', `/v1/connections/${client.id}`), 404, 'GET of a connection that was disconnected');
      assert.deepEqual(await nodes[asked].api.send(user, 'too-late', 1), { connections: 0, nodes: 0, unconfirmed: 0 });
      for (const client of clients) await client.kicked(4500, 'Account suspended');
    });
  }

  test('nothing reaches a client after disconnect has answered, and it does not come back', async () => {
    const user = someone('stays-away');
    const clients = await devices(user, { reconnectionDelay: 20, reconnectionDelayMax: 50 });
    await nodes[0].api.disconnect(user);
    for (const client of clients) await client.kicked(4500);
    await nodes[1].api.send(user, 'too-late', 1);
    // A round trip through every node: had a client been about to come back, it had had many times its delay.
    const witnesses = await Promise.all(nodes.map((node) => connected(node, { user: someone('witness') })));
    for (const witness of witnesses) assert.equal(witness.socket.connected, true);
    for (const client of clients) {
      assert.deepEqual([client.socket.connected, client.socket.active, client.count('ready'), client.count('too-late')], [false, false, 1, 0], client.history());
    }
    assert.equal((await nodes[2].api.user(user)).online, false);
  });

  test('code 4003 with reconnect: true: all come back by themselves', async () => {
    const user = someone('returns');
    const clients = await devices(user, { reconnectionDelay: 100 });
    const before = clients.map((client) => client.id);
    assert.deepEqual(await nodes[1].api.disconnect(user, { code: 4003, reconnect: true }), { disconnected: 3, nodes: 3, remaining: [] });
    for (const client of clients) {
      const [how] = await client.wait('disconnect');
      assert.deepEqual(client.told(), { code: 4003, reason: 'Reconnect requested', reconnect: true });
      assert.ok(['transport close', 'transport error'].includes(how), `expected a closed transport, got "${how}"`);
      await client.ready({ nth: 2 });
    }
    const ids = (await nodes[0].api.user(user)).connections.map((one) => one.id).sort();
    assert.deepEqual(ids, clients.map((client) => client.id).sort(), 'expected exactly the new connections');
    assert.ok(!ids.some((id) => before.includes(id)), 'expected new ids');
  });

  test('except spares a connection on another node', async () => {
    const user = someone('except');
    const clients = await devices(user);
    assert.deepEqual(await nodes[0].api.disconnect(user, { except: [clients[2].id] }), { disconnected: 2, nodes: 2, remaining: [] });
    for (const node of nodes) assert.deepEqual((await node.api.user(user)).connections.map((one) => one.id), [clients[2].id]);
    assert.deepEqual(await nodes[0].api.send(user, 'spared', 1), { connections: 1, nodes: 1, unconfirmed: 0 });
    await clients[2].wait('spared');
  });

  test('DELETE of a connection through another node', async () => {
    const user = someone('delete');
    const clients = await devices(user);
    assert.equal((await nodes[0].api.ok('DELETE', `/v1/connections/${clients[1].id}`)).disconnected, 1);
    for (const node of nodes) assert.deepEqual((await node.api.user(user)).connections.map((one) => one.id).sort(), [clients[0].id, clients[2].id].sort());
    await clients[1].kicked(4500);
  });

  test('every namespace on every node is reached', async () => {
    const user = someone('namespaces');
    const roots = await devices(user);
    const opens = await Promise.all(roots.map(async (root) => {
      const open = root.join('/public');
      await open.ready();
      return open;
    }));
    assert.deepEqual(await nodes[2].api.send(user, 'public', 1, { namespace: '/public' }), { connections: 3, nodes: 3, unconfirmed: 0 });
    for (const open of opens) await open.wait('public');
    assert.deepEqual(await nodes[0].api.disconnect(user), { disconnected: 6, nodes: 3, remaining: [] });
    for (const client of [...roots, ...opens]) await client.kicked(4500);
  });

  test('a disconnect while the user keeps coming: whoever was listed is gone', async () => {
    const user = someone('storm');
    let stop = false;
    const all = [];
    const coming = Promise.all(nodes.map(async (node) => {
      while (!stop) {
        const client = connect(node, { user, reconnection: false });
        all.push(client);
        await Promise.race(['ready', 'disconnect', 'connect_error'].map((name) => client.wait(name)));
      }
    }));
    try {
      await eventually('the user has ten connections', async () => (await nodes[0].api.user(user)).connections.length >= 10);
      for (let round = 0; round < 5; round += 1) {
        const listed = (await nodes[round % 3].api.user(user)).connections.map((one) => one.id);
        const answer = await nodes[(round + 1) % 3].api.disconnect(user);
        const left = new Set((await nodes[(round + 2) % 3].api.user(user)).connections.map((one) => one.id));
        assert.deepEqual(answer.remaining, []);
        assert.deepEqual(listed.filter((id) => left.has(id)), [], 'expected nobody who was listed before the call to be listed after it');
      }
    } finally {
      stop = true;
      await within(20000, 'the last handshakes come to an end', coming);
    }
    await nodes[0].api.disconnect(user);
    await eventually('nobody is left after the last disconnect', async () => (await nodes[1].api.user(user)).connections.length === 0);
    await eventually('every client of the user is closed', async () => {
      assert.deepEqual(all.filter((client) => client.socket.connected).length, 0, 'some are still connected');
    });
  });
});

test('kill -9 of a node: out of every answer within 15 s, the others untouched', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const [one, two, doomed] = await Promise.all(NAMES.map((name) => node({ redis: store, name })));
  const user = someone('survivor');
  const lost = someone('lost');
  const clients = await Promise.all([one, two].map((at) => connected(at, { user })));
  const gone = connect(doomed, { user, reconnection: false });
  const alone = connect(doomed, { user: lost, reconnection: false });
  await Promise.all([gone.ready(), alone.ready()]);
  await eventually('all three are in the view', async () => (await one.api.user(user)).connections.length === 3);

  doomed.signal('SIGKILL');
  await doomed.end();
  const killed = Date.now();
  await eventually('the killed node and its connections are out of every answer', async () => {
    for (const at of [one, two]) {
      const left = (await at.api.user(user)).connections.map((connection) => connection.id).sort();
      assert.deepEqual(left, clients.map((client) => client.id).sort(), `${at.name}: GET user`);
      assert.equal((await at.api.user(lost)).online, false, `${at.name}: GET of a user who had only the killed node`);
      assert.deepEqual((await at.api.nodes()).map((row) => row.nodeId).sort(), ['n1', 'n2'], `${at.name}: GET nodes`);
      assert.deepEqual(await at.api.stats(), { nodes: 2, connections: 2, users: 1 }, `${at.name}: GET stats`);
      assert.deepEqual((await at.api.ok('GET', '/v1/users')).users, [{ userId: user, connections: 2, devices: 2 }], `${at.name}: GET users`);
      const presence = (await at.api.ok('POST', '/v1/presence', { users: [user, lost] })).users;
      assert.deepEqual([presence[user].connections, presence[lost].online], [2, false], `${at.name}: POST presence`);
      assert.equal((await at.api.request('GET', `/v1/connections/${gone.id}`)).status, 404, `${at.name}: GET connection`);
    }
  }, { ms: 15000, every: 250 });
  const took = Date.now() - killed;
  assert.ok(took < 15000, `expected it within 15 s, took ${took} ms`);

  for (const client of clients) assert.equal(client.count('disconnect'), 0, `expected the clients of the other nodes to be untouched; ${client.label} got: ${client.history()}`);
  assert.deepEqual(await two.api.send(user, 'still', 'here'), { connections: 2, nodes: 2, unconfirmed: 0 });
  for (const client of clients) await client.wait('still');
  assert.deepEqual(await one.api.ok('POST', '/v1/broadcast', { event: 'all', data: 1 }), { connections: 2, nodes: 2, unconfirmed: 0 });
  for (const client of clients) await client.wait('all');
  await eventually('the killed node\'s connections are reaped: Redis holds their ids no more', async () => {
    const held = await store.everything();
    assert.deepEqual([gone.id, alone.id].filter((id) => held.includes(id)), []);
    assert.ok(held.includes(clients[0].id), 'expected this look into Redis to find a connection that lives');
  }, { ms: 20000, every: 500 });
  assert.deepEqual(await one.api.disconnect(user), { disconnected: 2, nodes: 2, remaining: [] });
  for (const client of clients) await client.kicked(4500);
});

test('reads and sends do not wait for a node that died a moment ago', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const [one, doomed] = await Promise.all([node({ redis: store, name: 'n1' }), node({ redis: store, name: 'n2' })]);
  const user = someone('moment');
  const here = await connected(one, { user });
  await connect(doomed, { user, reconnection: false }).ready();
  doomed.signal('SIGKILL');
  await doomed.end();
  const view = await within(3000, 'GET user right after a node died (reads never ask another node)', one.api.user(user));
  assert.ok(view.connections.some((connection) => connection.id === here.id));
  const sent = await within(6000, 'a send right after a node died', one.api.send(user, 'on', 1));
  assert.deepEqual(sent, { connections: 1, nodes: 1, unconfirmed: 1 }, 'expected the send to count whom it was handed to, and the dead node as unconfirmed');
  const all = await within(6000, 'a broadcast right after a node died', one.api.ok('POST', '/v1/broadcast', { event: 'all', data: 1 }));
  assert.deepEqual(all, { connections: 1, nodes: 1, unconfirmed: 1 });
  await here.wait('on');
});

test('disconnect with a node that died a moment ago: 200, or 202 with what could not be confirmed', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const [one, doomed] = await Promise.all([node({ redis: store, name: 'n1' }), node({ redis: store, name: 'n2' })]);
  const user = someone('unconfirmed');
  const here = await connected(one, { user });
  const there = connect(doomed, { user, reconnection: false });
  await there.ready();
  doomed.signal('SIGKILL');
  await doomed.end();
  const answer = await one.api.request('POST', `/v1/users/${user}/disconnect`, { json: {} });
  await here.kicked(4500);
  assert.ok([200, 202].includes(answer.status), `expected 200 or 202, got ${answer.status}: ${answer.text}`);
  if (answer.status === 202) {
    assert.deepEqual(answer.json.remaining, [there.id], 'expected the dead node\'s connection in remaining, and nothing else');
    assert.equal(answer.json.disconnected, 1);
  } else {
    assert.deepEqual(answer.json.remaining, []);
    assert.deepEqual((await one.api.user(user)).connections, [], 'expected none to be listed once disconnect has answered 200');
  }
  await eventually('the dead node\'s connection is gone', async () => (await one.api.user(user)).online === false, { ms: 15000 });
});

test('large acks of many clients cross the cluster in pieces, and cut no link', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const env = { SWITCHBOARD_LIMITS__ACK_BYTES: '1MB', SWITCHBOARD_LIMITS__CONNECTS_PER_SECOND_PER_USER: '0' };
  const [asker, holder] = await Promise.all(['n1', 'n2'].map((name) => node({ redis: store, name, env })));
  const user = someone('wordy');
  const clients = await Promise.all(Array.from({ length: 36 }, () => connected(holder, { user })));
  for (const client of clients) client.answer('ask', 'x'.repeat(900_000 - 2));
  const answer = await asker.api.send(user, 'ask', 1, { ack: { timeoutMs: 30000 } });
  const given = answer.acks.filter((ack) => ack.data !== undefined);
  const cut = answer.acks.filter((ack) => ack.error === 'too_large');
  assert.deepEqual([answer.connections, answer.nodes, answer.unconfirmed, answer.missing], [36, 1, 0, 0]);
  assert.deepEqual([given.length, cut.length], [17, 19], 'expected 16 MB of answers to be passed on, and the rest to be named');
  assert.deepEqual(await asker.api.send(user, 'after', 1), { connections: 36, nodes: 1, unconfirmed: 0 });
  for (const one of [asker, holder]) {
    const { text } = await one.api.request('GET', '/metrics');
    assert.match(text, /^switchboard_bus_reconnects_total 0$/m, 'expected no link to have been cut');
  }
});

test('two nodes of different prefixes on one Redis are two clusters', async ({ node, redis }) => {
  const store = await redis();
  const [blue, green] = await Promise.all(['blue', 'green'].map((name) => node({ redis: store, name, env: { SWITCHBOARD_REGISTRY__PREFIX: name } })));
  const user = someone('colour');
  const client = await connected(blue, { user });
  assert.deepEqual((await green.api.nodes()).map((one) => one.nodeId), ['green']);
  assert.equal((await green.api.user(user)).online, false);
  assert.deepEqual(await green.api.send(user, 'x', 1), { connections: 0, nodes: 0, unconfirmed: 0 });
  assert.deepEqual(await green.api.disconnect(user), { disconnected: 0, nodes: 0, remaining: [] });
  assert.equal(client.socket.connected, true);
  const keys = (await store.command('KEYS', '*')).split('\r\n').filter((line) => line && !/^[$*]/.test(line));
  for (const key of keys) assert.match(key, /^\{?(blue|green)/, 'expected every key to carry its cluster\'s prefix');
});

test('a node that comes back under the same name starts anew', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const watcher = await node({ redis: store, name: 'watcher' });
  const first = await node({ redis: store, name: 'phoenix' });
  const user = someone('phoenix');
  const before = connect(first, { user, reconnection: false });
  await before.ready();
  first.signal('SIGKILL');
  await first.end();
  const second = await node({ redis: store, name: 'phoenix' });
  const after = await connected(second, { user });
  await eventually('only the connection of the second run is listed', async () => {
    assert.deepEqual((await watcher.api.user(user)).connections.map((one) => one.id), [after.id]);
    assert.deepEqual((await watcher.api.nodes()).map((one) => one.nodeId).sort(), ['phoenix', 'watcher']);
  }, { ms: 15000, every: 250 });
  assert.deepEqual(await watcher.api.send(user, 'x', 1), { connections: 1, nodes: 1, unconfirmed: 0 });
  await after.wait('x');
});
