// Redis goes away and comes back: what is refused meanwhile, what stays, and that everything is found again.

import assert from 'node:assert/strict';
import { connect, connected, eventually, exchange, expectProblem, parseMetrics, someone, test } from './harness.mjs';

const readyz = async (node) => (await exchange(node.url, 'GET', '/readyz')).status;

test('an outage of Redis', { ms: 120000 }, async ({ node, redis }) => {
  const store = await redis();
  const [one, two] = await Promise.all(['n1', 'n2'].map((name) => node({ redis: store, name })));
  const user = someone('outage');
  const clients = await Promise.all([one, two].map((at) => connected(at, { user, label: `the client on ${at.name}` })));
  assert.deepEqual(await one.api.send(user, 'before', 1), { connections: 2, nodes: 2, unconfirmed: 0 });

  await store.stop();
  for (const at of [one, two]) await eventually(`${at.name}: /readyz answers 503 while Redis is away`, async () => assert.equal(await readyz(at), 503), { ms: 15000 });
  assert.equal((await exchange(one.url, 'GET', '/healthz')).status, 200, 'expected /healthz to look at no dependency');
  for (const [method, path, json] of [['GET', `/v1/users/${user}`], ['GET', '/v1/stats'], ['POST', `/v1/users/${user}/events`, { event: 'x' }], ['POST', `/v1/users/${user}/disconnect`, {}]]) {
    const answer = await one.api.request(method, path, { json });
    expectProblem(answer, 503, `${method} ${path} while Redis is away`);
    assert.match(answer.headers['retry-after'] ?? '', /^\d+$/, `expected Retry-After with the 503 of ${method} ${path}`);
  }
  const handshake = await exchange(one.url, 'GET', '/socket.io/?EIO=4&transport=polling');
  assert.equal(handshake.status, 503, `expected a handshake to be refused over HTTP while Redis is away (a connect error would stop the stock client), got ${handshake.status}`);
  const waiting = connect(one, { user: someone('waiting'), reconnectionDelay: 200, reconnectionDelayMax: 500 });
  await waiting.wait('connect_error');
  assert.equal(waiting.socket.active, true, 'expected the stock client to go on trying');

  await store.start();
  for (const at of [one, two]) await eventually(`${at.name}: /readyz answers 200 when Redis is back`, async () => assert.equal(await readyz(at), 200), { ms: 20000 });
  await waiting.ready({ ms: 15000 });
  // Redis came back empty: the nodes register anew what they hold.
  for (const at of [one, two]) {
    await eventually(`${at.name} lists both connections again`, async () => {
      assert.deepEqual((await at.api.user(user)).connections.map((connection) => connection.id).sort(), clients.map((client) => client.id).sort());
    }, { ms: 20000 });
  }
  for (const client of clients) assert.equal(client.count('disconnect'), 0, `expected ${client.label} to have lived through it; it got: ${client.history()}`);
  assert.deepEqual(await one.api.send(user, 'after', 2), { connections: 2, nodes: 2, unconfirmed: 0 });
  for (const client of clients) await client.wait('after');
  await eventually('a broadcast reaches both nodes again', async () => {
    const { nodes, unconfirmed } = await two.api.ok('POST', '/v1/broadcast', { event: 'all', data: 1 });
    assert.deepEqual({ nodes, unconfirmed }, { nodes: 2, unconfirmed: 0 });
    for (const client of clients) assert.ok(client.count('all') >= 1);
  }, { ms: 15000, every: 250 });
  assert.deepEqual(await two.api.disconnect(user), { disconnected: 2, nodes: 2, remaining: [] });
  for (const client of clients) await client.kicked(4500);
  const metrics = parseMetrics((await one.api.request('GET', '/metrics')).text);
  assert.equal(metrics.value('switchboard_bus_up'), 1);
  assert.ok(metrics.value('switchboard_bus_reconnects_total') >= 1, 'expected switchboard_bus_reconnects_total to count the outage');
});

test('clients that leave during an outage are not listed after it', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const one = await node({ redis: store, name: 'n1' });
  const [leaver, stayer] = [someone('leaver'), someone('stayer')];
  const gone = await connected(one, { user: leaver });
  const here = await connected(one, { user: stayer });
  await store.stop();
  await eventually('/readyz answers 503 while Redis is away', async () => assert.equal(await readyz(one), 503), { ms: 15000 });
  gone.socket.disconnect();
  await store.start();
  await eventually('exactly the one that stayed is listed', async () => {
    assert.deepEqual(await one.api.stats(), { nodes: 1, connections: 1, users: 1 });
    assert.equal((await one.api.user(leaver)).online, false);
    assert.deepEqual((await one.api.user(stayer)).connections.map((connection) => connection.id), [here.id]);
  }, { ms: 25000, every: 250 });
});

test('FLUSHALL loses nothing for longer than a heartbeat or two', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const [one, two] = await Promise.all(['n1', 'n2'].map((name) => node({ redis: store, name })));
  const user = someone('flushed');
  const clients = await Promise.all([one, two].map((at) => connected(at, { user })));
  assert.match(await store.command('FLUSHALL'), /^\+OK/);
  for (const at of [one, two]) {
    await eventually(`${at.name} lists both connections again`, async () => {
      assert.deepEqual((await at.api.user(user)).connections.map((connection) => connection.id).sort(), clients.map((client) => client.id).sort());
      assert.equal((await at.api.nodes()).length, 2);
    }, { ms: 15000, every: 250 });
  }
  assert.deepEqual(await one.api.send(user, 'x', 1), { connections: 2, nodes: 2, unconfirmed: 0 });
  for (const client of clients) await client.wait('x');
});

test('a Redis that hangs: answers come all the same, with 503', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const one = await node({ redis: store, name: 'n1' });
  const user = someone('hung');
  const client = await connected(one, { user });
  store.server.signal('SIGSTOP');
  try {
    const started = Date.now();
    const answer = await one.api.request('GET', `/v1/users/${user}`, { ms: 10000 });
    expectProblem(answer, 503, 'GET user while Redis hangs');
    assert.ok(Date.now() - started < 8000, `expected a deadline on every call to Redis, the answer took ${Date.now() - started} ms`);
    await eventually('/readyz answers 503 while Redis hangs', async () => assert.equal(await readyz(one), 503), { ms: 15000 });
  } finally {
    store.server.signal('SIGCONT');
  }
  await eventually('/readyz answers 200 when Redis goes on', async () => assert.equal(await readyz(one), 200), { ms: 20000 });
  await eventually('the connection is listed', async () => {
    assert.deepEqual((await one.api.user(user)).connections.map((connection) => connection.id), [client.id]);
  }, { ms: 20000 });
  assert.equal(client.count('disconnect'), 0, client.history());
});

test('without Redis at its start a node does not become ready, or ends saying so', { ms: 60000 }, async ({ redis, node }) => {
  const store = await redis();
  await store.stop();
  const starting = node({ redis: store, name: 'early' }).then((one) => ({ one }), (error) => ({ error }));
  const early = await Promise.race([starting, eventually('a moment', async () => false, { ms: 3000 }).catch(() => 'waiting')]);
  if (early === 'waiting') {
    await store.start();
    const { one, error } = await starting;
    assert.equal(error, undefined, `expected the node to become ready once Redis is there: ${error?.message}`);
    await connected(one, { user: someone() });
  } else {
    assert.ok(early.error, 'expected a node without its Redis not to be ready');
    assert.match(early.error.message, /redis/i, `expected it to say that Redis is away, got: ${early.error.message}`);
  }
});
