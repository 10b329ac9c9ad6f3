// Contract 8: how a node goes.

import assert from 'node:assert/strict';
import http from 'node:http';
import net from 'node:net';
import { connect, connected, eventually, exchange, RawSocket, someone, test, token, within } from './harness.mjs';

const CHUNK = 'x'.repeat(300_000);

/** A load balancer of the simplest kind: each TCP connection goes to the next node that says it is ready. */
async function forwarder(nodes) {
  let turn = 0;
  const open = new Set();
  const server = net.createServer(async (inbound) => {
    open.add(inbound);
    inbound.on('error', () => {}).on('close', () => open.delete(inbound));
    for (let tries = 0; tries < nodes.length; tries += 1) {
      const node = nodes[(turn += 1) % nodes.length];
      const ready = await exchange(node.url, 'GET', '/readyz', { ms: 2000 }).then((answer) => answer.status === 200, () => false);
      if (!ready) continue;
      const outbound = net.connect(node.port, '127.0.0.1');
      outbound.on('error', () => inbound.destroy()).on('close', () => inbound.destroy());
      inbound.on('close', () => outbound.destroy());
      inbound.pipe(outbound).pipe(inbound);
      return;
    }
    inbound.destroy();
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    close() {
      for (const socket of open) socket.destroy();
      server.close();
    },
  };
}

const ready = async (node) => (await exchange(node.url, 'GET', '/readyz', { ms: 2000 })).status;
const alive = async (node) => (await exchange(node.url, 'GET', '/healthz', { ms: 2000 })).status;

for (const signal of ['SIGTERM', 'SIGINT']) {
  test(`${signal} with fifty clients and ten that read nothing`, { ms: 120000 }, async ({ node, redis }) => {
    const store = await redis();
    const env = { SWITCHBOARD_DRAIN__WINDOW: '3s', SWITCHBOARD_LIMITS__SEND_QUEUE_BYTES: '64MB', SWITCHBOARD_LIMITS__WRITE_DEADLINE: '120s' };
    const [leaving, staying] = await Promise.all([node({ redis: store, name: 'leaving', env }), node({ redis: store, name: 'staying', env })]);
    // At first the balancer knows the node that will leave only, so that all fifty are there.
    const targets = [leaving];
    const balancer = await forwarder(targets);
    try {
      const clients = await Promise.all(Array.from({ length: 50 }, (_, i) => connected(balancer.url, { user: `drained-${i}`, label: `client ${i}`, reconnectionDelay: 200, reconnectionDelayMax: 1000 })));
      const stalled = someone('stalled');
      for (let i = 0; i < 10; i += 1) {
        const raw = new RawSocket(leaving.url);
        await raw.connect({ token: token(stalled) });
        raw.stall();
      }
      for (let i = 0; i < 20; i += 1) assert.equal((await staying.api.send(stalled, 'fill', CHUNK)).connections, 10);
      assert.equal((await staying.api.stats()).connections, 60);
      targets.push(staying);

      leaving.signal(signal);
      await eventually('/readyz answers 503 at once', async () => assert.equal(await ready(leaving), 503), { ms: 1000, every: 10 });
      assert.equal(await alive(leaving), 200, 'expected /healthz to stay 200 while draining: the process lives');
      const refused = await exchange(leaving.url, 'GET', '/socket.io/?EIO=4&transport=polling', { ms: 2000 });
      assert.equal(refused.status, 503, `expected 503 to a new handshake while draining, got ${refused.status}: ${refused.text}`);

      for (const client of clients) {
        const [how] = await client.wait('disconnect', { ms: 15000 });
        assert.deepEqual(client.told(), { code: 4000, reason: 'Server shutting down', reconnect: true });
        assert.ok(['transport close', 'transport error'].includes(how), `expected a closed transport, so that the client comes back; got "${how}"`);
      }
      const { code, signal: by } = await leaving.end({ ms: 20000 });
      assert.deepEqual([code, by], [0, null], `expected exit code 0 after a drain, got code ${code}, signal ${by}\n${leaving.log.slice(-2000)}`);

      for (const client of clients) {
        const { nodeId } = await client.ready({ nth: 2, ms: 15000 });
        assert.equal(nodeId, 'staying', `expected ${client.label} to be on the other node`);
      }
      assert.deepEqual((await staying.api.nodes()).map((row) => row.nodeId), ['staying'], 'expected a node that left to be out of the list at once');
      await eventually('the registry has exactly the fifty that moved', async () => {
        assert.deepEqual(await staying.api.stats(), { nodes: 1, connections: 50, users: 50 });
      });
      assert.deepEqual((await staying.api.user(stalled)).connections, [], 'expected none of the ten that read nothing to be left');
      for (let i = 0; i < 50; i += 1) {
        const [one, ...more] = (await staying.api.user(`drained-${i}`)).connections;
        assert.deepEqual([one.id, one.nodeId, more.length], [clients[i].id, 'staying', 0]);
      }
    } finally {
      balancer.close();
    }
  });
}

test('the clients are sent away at a steady pace over drain.window', { ms: 90000 }, async ({ node }) => {
  const leaving = await node({ name: 'paced', env: { SWITCHBOARD_DRAIN__WINDOW: '4s' } });
  const clients = await Promise.all(Array.from({ length: 40 }, (_, i) => connected(leaving, { user: `paced-${i}`, reconnection: false })));
  const left = [];
  for (const client of clients) client.socket.on('disconnect', () => left.push(Date.now()));
  leaving.signal('SIGTERM');
  assert.equal((await leaving.end({ ms: 20000 })).code, 0);
  for (const client of clients) await client.wait('disconnect');
  left.sort((a, b) => a - b);
  // Half of the window is a wide berth for a busy machine; all at once would be 0.
  assert.ok(left.at(-1) - left[0] >= 2000, `expected 40 clients to leave over about 4 s, they left over ${left.at(-1) - left[0]} ms`);
  const busiest = Math.max(...left.map((from) => left.filter((at) => at >= from && at < from + 500).length));
  assert.ok(busiest <= 20, `expected a steady pace (5 in 500 ms), got ${busiest} in one 500 ms`);
});

test('drain.delay: not ready at once, but the clients are left alone meanwhile', { ms: 60000 }, async ({ node }) => {
  const leaving = await node({ name: 'delayed', env: { SWITCHBOARD_DRAIN__DELAY: '3s', SWITCHBOARD_DRAIN__WINDOW: '0s' } });
  const user = someone('delayed');
  const client = await connected(leaving, { user, reconnection: false });
  const signalled = Date.now();
  leaving.signal('SIGTERM');
  await eventually('/readyz answers 503 at once', async () => assert.equal(await ready(leaving), 503), { ms: 1000, every: 10 });
  assert.deepEqual(await leaving.api.send(user, 'meanwhile', 1), { connections: 1, nodes: 1, unconfirmed: 0 }, 'expected sends to work during drain.delay');
  await client.wait('meanwhile');
  assert.equal((await leaving.api.nodes())[0].draining, true, 'expected the node to be shown as draining');
  await client.wait('disconnect');
  assert.ok(Date.now() - signalled >= 2000, `expected the first close after drain.delay of 3 s, it came after ${Date.now() - signalled} ms`);
  assert.equal((await leaving.end()).code, 0);
});

test('other nodes see a node that drains', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const [leaving, staying] = await Promise.all([node({ redis: store, name: 'leaving', env: { SWITCHBOARD_DRAIN__DELAY: '6s' } }), node({ redis: store, name: 'staying' })]);
  leaving.signal('SIGTERM');
  await eventually('the draining node is shown as draining by the other', async () => {
    const row = (await staying.api.nodes()).find((one) => one.nodeId === 'leaving');
    assert.ok(row, 'expected the draining node to be listed until it has left');
    assert.equal(row.draining, true);
  }, { ms: 6000 });
  assert.equal((await leaving.end()).code, 0);
  assert.deepEqual((await staying.api.nodes()).map((one) => one.nodeId), ['staying']);
});

test('a disconnect that crosses a drain leaves nobody', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const [leaving, staying] = await Promise.all([node({ redis: store, name: 'leaving', env: { SWITCHBOARD_DRAIN__WINDOW: '5s' } }), node({ redis: store, name: 'staying' })]);
  const user = someone('crossed');
  const clients = await Promise.all(Array.from({ length: 20 }, (_, i) => connected(i % 2 ? leaving : staying, { user, reconnection: false })));
  leaving.signal('SIGTERM');
  await eventually('/readyz answers 503', async () => assert.equal(await ready(leaving), 503), { ms: 1000, every: 10 });
  const answer = await staying.api.disconnect(user);
  assert.deepEqual(answer.remaining, []);
  assert.deepEqual((await staying.api.user(user)).connections, []);
  for (const client of clients) await client.wait('disconnect');
  assert.equal((await leaving.end()).code, 0);
});

test('a second signal ends it at once', { ms: 60000 }, async ({ node }) => {
  const leaving = await node({ name: 'impatient', env: { SWITCHBOARD_DRAIN__DELAY: '60s', SWITCHBOARD_DRAIN__WINDOW: '60s' } });
  await connected(leaving, { user: someone(), reconnection: false });
  leaving.signal('SIGTERM');
  await eventually('/readyz answers 503', async () => assert.equal(await ready(leaving), 503), { ms: 2000, every: 10 });
  assert.ok(!leaving.ended, 'expected it to drain after the first signal');
  leaving.signal('SIGTERM');
  await leaving.end({ ms: 3000 });
});

test('a node without clients leaves without waiting for drain.window', async ({ node }) => {
  const leaving = await node({ env: { SWITCHBOARD_DRAIN__WINDOW: '60s' } });
  leaving.signal('SIGTERM');
  assert.equal((await leaving.end({ ms: 5000 })).code, 0);
});

test('idle HTTP connections and half a request do not hold up the end', async ({ node }) => {
  const leaving = await node({ env: { SWITCHBOARD_DRAIN__WINDOW: '1s' } });
  const idle = new http.Agent({ keepAlive: true });
  await new Promise((resolve, reject) => http.get(`${leaving.url}/healthz`, { agent: idle }, (response) => response.resume().on('end', resolve)).on('error', reject));
  const half = net.connect(leaving.port, '127.0.0.1');
  half.on('error', () => {});
  half.write('GET /healthz HTTP/1.1\r\nHost: x\r\nX-Half: ');
  await within(2000, 'the half request is on its way', new Promise((resolve) => half.on('connect', resolve)));
  leaving.signal('SIGTERM');
  try {
    assert.equal((await leaving.end({ ms: 15000 })).code, 0);
  } finally {
    idle.destroy();
    half.destroy();
  }
});

test('a client that connects while the node drains gets on elsewhere by itself', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const [leaving, staying] = await Promise.all([node({ redis: store, name: 'leaving', env: { SWITCHBOARD_DRAIN__DELAY: '2s' } }), node({ redis: store, name: 'staying' })]);
  leaving.signal('SIGTERM');
  await eventually('/readyz answers 503', async () => assert.equal(await ready(leaving), 503), { ms: 1000, every: 10 });
  const client = connect(leaving, { user: someone('late'), reconnectionDelay: 100 });
  await client.wait('connect_error');
  assert.equal(client.socket.active, true, 'expected a refusal over HTTP, after which the stock client tries again by itself');
  client.socket.io.uri = staying.url;
  assert.equal((await client.ready()).nodeId, 'staying');
});
