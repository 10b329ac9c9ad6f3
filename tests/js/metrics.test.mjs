// Contract 7: what a node measures, and that it agrees with what the API says.

import assert from 'node:assert/strict';
import { API_KEY, connect, connected, describe, eventually, expectProblem, onBothRegistries, parseMetrics, someone, test, token } from './harness.mjs';

/** Of a node; `expected` are labels. */
async function metricsOf(node) {
  const answer = await node.api.request('GET', '/metrics');
  assert.equal(answer.status, 200, `expected 200 to /metrics with an API key, got ${answer.status}`);
  assert.match(answer.headers['content-type'] ?? '', /^text\/plain/, 'expected Prometheus text');
  return parseMetrics(answer.text);
}

/** The parts of a Prometheus histogram. */
const parts = (name) => [`${name}_bucket`, `${name}_sum`, `${name}_count`];

onBothRegistries((world) => {
  test('/metrics on the public listener asks for an API key', async () => {
    expectProblem(await world.door.api.request('GET', '/metrics', { key: null }), 401, '/metrics without a key');
    expectProblem(await world.door.api.request('GET', '/metrics', { key: `${API_KEY}x` }), 401, '/metrics with a wrong key');
    assert.equal((await world.door.api.request('GET', '/metrics')).status, 200);
  });

  test('every metric of the contract is there, with its labels and kind', async () => {
    const user = someone('measured');
    const client = await connected(world.door, { user });
    client.answer('ask', 1);
    await connect(world.door, { token: 'rubbish' }).refused('Invalid token');
    await world.door.api.send(user, 'hello', 1);
    await world.door.api.send(user, 'ask', 1, { ack: { timeoutMs: 2000 } });
    await world.door.api.ok('POST', '/v1/broadcast', { event: 'all', data: 1 });
    await world.door.api.ok('POST', '/v1/events', { messages: [{ connection: client.id, event: 'one' }, { room: 'r', event: 'room' }] });
    await world.desk.api.send(user, 'hello', 1);
    const leaver = await connected(world.door, { user: someone() });
    leaver.socket.disconnect();
    await world.door.api.disconnect(user);
    await client.wait('disconnect');

    const expected = {
      switchboard_connections: ['gauge', ['namespace', 'transport']],
      switchboard_users: ['gauge', []],
      switchboard_cluster_users: ['gauge', []],
      switchboard_cluster_connections: ['gauge', []],
      switchboard_connects_total: ['counter', ['namespace']],
      switchboard_connect_errors_total: ['counter', ['reason']],
      switchboard_disconnects_total: ['counter', ['reason']],
      switchboard_messages_sent_total: ['counter', ['kind']],
      switchboard_api_request_duration_seconds: ['histogram', ['route', 'method', 'status']],
      switchboard_registry_duration_seconds: ['histogram', ['operation']],
      switchboard_ready_duration_seconds: ['histogram', []],
    };
    if (world.redis) {
      expected.switchboard_bus_messages_total = ['counter', ['direction']];
      expected.switchboard_bus_up = ['gauge', []];
    }
    await eventually('every metric of the contract is on /metrics', async () => {
      const metrics = await metricsOf(world.door);
      for (const [name, [kind, labels]] of Object.entries(expected)) {
        assert.equal(metrics.types.get(name), kind, `expected "# TYPE ${name} ${kind}", got ${metrics.types.get(name)}`);
        for (const part of kind === 'histogram' ? parts(name) : [name]) {
          const samples = metrics.series.get(part);
          assert.ok(samples?.length, `expected the series ${part}`);
          for (const sample of samples) {
            assert.deepEqual(Object.keys(sample.labels).filter((label) => label !== 'le').sort(), [...labels].sort(), `expected the labels {${labels}} on ${part}`);
          }
        }
      }
      assert.ok(metrics.value('switchboard_connects_total', { namespace: '/' }) >= 2);
      assert.ok(metrics.value('switchboard_connect_errors_total') >= 1);
      assert.ok(metrics.value('switchboard_disconnects_total') >= 2);
      const kinds = new Set(metrics.series.get('switchboard_messages_sent_total').map((sample) => sample.labels.kind));
      for (const kind of ['user', 'broadcast', 'connection']) assert.ok(kinds.has(kind), `expected kind="${kind}" on switchboard_messages_sent_total, got ${[...kinds]}`);
      for (const kind of kinds) assert.ok(['user', 'broadcast', 'room', 'connection'].includes(kind), `expected no kind="${kind}" on switchboard_messages_sent_total`);
      // What counts misfortune may be absent until it happens, but not be of another kind.
      for (const name of ['switchboard_messages_dropped_total', 'switchboard_registry_errors_total', 'switchboard_bus_reconnects_total']) {
        assert.ok([undefined, 'counter'].includes(metrics.types.get(name)), `expected ${name} to be a counter, got ${metrics.types.get(name)}`);
      }
      if (world.redis) assert.equal(metrics.value('switchboard_bus_up'), 1, 'expected switchboard_bus_up 1');
    });
  });

  test('the gauges agree with the API', async () => {
    const user = someone('counted');
    const clients = [
      await connected(world.door, { user }),
      await connected(world.door, { user, transports: ['polling'] }),
      await connected(world.door, { user, namespace: '/public' }),
      await connected(world.door, { auth: {}, namespace: '/public' }),
      await connected(world.desk, { user: someone('counted') }),
    ];
    const agree = (what, expected) => eventually(`the gauges agree with the API ${what}`, async () => {
      const stats = await world.api.stats();
      const each = await Promise.all([...new Set([world.door, world.desk])].map(metricsOf));
      const sum = (name, labels) => each.reduce((total, metrics) => total + metrics.value(name, labels), 0);
      assert.equal(stats.connections, expected, `GET /v1/stats: ${JSON.stringify(stats)}`);
      assert.equal(sum('switchboard_connections'), stats.connections, 'the sum of switchboard_connections and GET /v1/stats');
      for (const metrics of each) {
        assert.equal(metrics.value('switchboard_cluster_connections'), stats.connections, 'switchboard_cluster_connections and GET /v1/stats');
        assert.equal(metrics.value('switchboard_cluster_users'), stats.users, 'switchboard_cluster_users and GET /v1/stats');
      }
      return sum;
    }, { ms: 15000 });
    const sum = await agree('with five connections', 5);
    assert.equal(sum('switchboard_connections', { transport: 'polling' }), 1, 'expected one by polling');
    assert.equal(sum('switchboard_connections', { namespace: '/public' }), 2, 'expected two in /public');
    assert.equal(sum('switchboard_users'), 2, 'expected two users (no guest among them)');
    for (const client of clients) client.socket.disconnect();
    const after = await agree('when they have left', 0);
    assert.equal(after('switchboard_users'), 0);
  });

  test('the gauge of the transport follows an upgrade', async () => {
    const client = await connected(world.door, { user: someone('upgraded'), transports: ['polling', 'websocket'] });
    await eventually('the gauge counts the upgraded client as websocket', async () => {
      assert.equal(client.socket.io.engine.transport.name, 'websocket');
      const metrics = await metricsOf(world.door);
      assert.deepEqual(['polling', 'websocket'].map((transport) => metrics.value('switchboard_connections', { transport })), [0, 1]);
    });
  });

  test('no label takes a value that users can make up', async () => {
    const marker = `made-up-${process.pid}`;
    const client = connect(world.door, { user: marker, deviceId: marker, claims: { role: marker, username: marker }, extraHeaders: { 'user-agent': marker } });
    await client.ready();
    client.socket.emit(marker, marker);
    await connect(world.door, { user: marker, namespace: `/${marker}` }).refused('Invalid namespace');
    await world.door.api.send(marker, marker, marker);
    await client.wait(marker);
    await world.door.api.request('GET', `/v1/users/${marker}`);
    await world.door.api.request('GET', `/v1/${marker}`);
    await world.door.api.request('GET', `/${marker}`);
    await world.door.api.request('GET', `/v1/connections/${marker}`);
    await world.door.api.disconnect(marker, { reason: marker, code: 4321 });
    await client.wait('disconnect');
    const { text } = await world.door.api.request('GET', '/metrics');
    const hit = text.split('\n').find((line) => line.includes(marker));
    assert.equal(hit, undefined, `expected no series to carry what a user or a caller made up, got: ${hit}`);
  });

  test('histograms have buckets', async () => {
    await world.door.api.stats();
    const { series } = await metricsOf(world.door);
    const buckets = series.get('switchboard_api_request_duration_seconds_bucket');
    assert.ok(new Set(buckets.map((sample) => sample.labels.le)).size >= 8, 'expected at least 8 buckets on switchboard_api_request_duration_seconds');
    const routes = new Set(buckets.map((sample) => sample.labels.route));
    assert.ok(routes.has('/v1/stats'), `expected route="/v1/stats", got ${[...routes]}`);
    assert.ok(![...routes].some((route) => /user-\d/.test(route)), 'expected routes as templates, not as paths');
  });

  test('the time to ready is measured for each connection', async () => {
    const before = (await metricsOf(world.door)).value('switchboard_ready_duration_seconds_count');
    await connected(world.door, { token: token(someone()) });
    await eventually('switchboard_ready_duration_seconds_count went up by one', async () => {
      assert.equal((await metricsOf(world.door)).value('switchboard_ready_duration_seconds_count'), before + 1);
    });
  });
});

describe('the state of a node', () => {
  const gauge = (metrics, name) => metrics.value(name);
  const gauges = async (node, expected) => {
    const metrics = await metricsOf(node);
    for (const [name, value] of Object.entries(expected)) {
      assert.equal(metrics.series.get(name)?.length, 1, `expected one series of ${name}`);
      assert.equal(gauge(metrics, name), value, `${name}, expected ${value}`);
    }
  };

  test('a node that runs alone is ready, and says what it is', async ({ node }) => {
    const one = await node({ name: 'alone', env: { SWITCHBOARD_LIMITS__CONNECTIONS: '7' } });
    await gauges(one, { switchboard_ready: 1, switchboard_draining: 0, switchboard_bus_up: 1, switchboard_connections_limit: 7 });
    const metrics = await metricsOf(one);
    const [info] = metrics.series.get('switchboard_build_info');
    const [{ version, nodeId }] = await one.api.nodes();
    assert.deepEqual(info, { labels: { version, node_id: nodeId }, value: 1 });
    for (const name of ['process_resident_memory_bytes', 'process_open_fds', 'process_max_fds', 'process_start_time_seconds', 'process_threads']) {
      assert.equal(metrics.types.get(name), 'gauge', `expected the gauge ${name}`);
      assert.ok(gauge(metrics, name) > 0, `expected ${name} to be above 0`);
    }
    assert.equal(metrics.types.get('process_cpu_seconds_total'), 'counter');
    // A restart is told from the outside by the time of the start: the clock of boot and this one's may differ by a little.
    assert.ok(Math.abs(gauge(metrics, 'process_start_time_seconds') - Date.now() / 1000) < 300);
  });

  test('what has not happened yet is 0, not absent: a rate sees the first time', async ({ node }) => {
    const metrics = await metricsOf(await node({ name: 'fresh' }));
    for (const name of ['switchboard_connections', 'switchboard_connects_total', 'switchboard_connect_errors_total', 'switchboard_disconnects_total', 'switchboard_messages_sent_total',
      'switchboard_messages_delivered_total', 'switchboard_messages_dropped_total', 'switchboard_events_refused_total', 'switchboard_events_unknown_total', 'switchboard_registry_errors_total',
      'switchboard_connections_reaped_total', 'switchboard_bus_reconnects_total', 'switchboard_bus_messages_total', 'switchboard_ready_duration_seconds_count']) {
      assert.ok(metrics.series.get(name)?.length, `expected ${name} from the start`);
    }
    const reasons = metrics.series.get('switchboard_disconnects_total').map((sample) => sample.labels.reason);
    for (const reason of ['transport_close', 'slow_consumer', 'banned', 'other']) assert.ok(reasons.includes(reason), `expected reason="${reason}", got ${reasons}`);
    assert.deepEqual(metrics.series.get('switchboard_connects_total').map((sample) => sample.labels.namespace).sort(), ['/', '/admin', '/public']);
  });

  test('a node that drains says so, and is not ready', async ({ node }) => {
    const one = await node({ name: 'drained', env: { SWITCHBOARD_DRAIN__DELAY: '30s' } });
    one.signal('SIGTERM');
    await eventually('the gauges say that it drains', () => gauges(one, { switchboard_ready: 0, switchboard_draining: 1 }), { ms: 15000 });
    assert.equal((await one.api.request('GET', '/readyz')).status, 503);
  });

  test('a node whose Redis is away is not ready until it is back', async ({ node, redis }) => {
    const server = await redis();
    const one = await node({ name: 'outage', redis: server });
    await gauges(one, { switchboard_ready: 1, switchboard_bus_up: 1 });
    await server.stop();
    await eventually('the gauges say that Redis is away', () => gauges(one, { switchboard_ready: 0, switchboard_draining: 0, switchboard_bus_up: 0 }), { ms: 30000 });
    await server.start();
    await eventually('the gauges say that Redis is back', () => gauges(one, { switchboard_ready: 1, switchboard_bus_up: 1, switchboard_bus_reconnects_total: 1 }), { ms: 30000 });
  });

  test('what a dead node leaves in the registry is counted by the node that takes it out', async ({ node, redis }) => {
    const server = await redis();
    const [dead, alive] = await Promise.all(['dead', 'alive'].map((name) => node({ name, redis: server })));
    await connected(dead, { user: someone() });
    await connected(dead, { user: someone() });
    await dead.kill();
    await eventually('the two connections are counted as reaped', async () => {
      assert.equal((await metricsOf(alive)).value('switchboard_connections_reaped_total'), 2);
    }, { ms: 40000 });
  });
});
