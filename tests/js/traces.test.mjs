// Traces: which spans a collector gets, and which trace a call, a send and a backend are part of.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { API_KEY, connected, eventually, parseMetrics, someone, test } from './harness.mjs';
import { calling, startBackend } from './support/backend.mjs';
import { startCollector } from './support/collector.mjs';

const TRACEPARENT = /^00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])$/;

/** A caller's trace, with the header that says it. */
function caller({ sampled = true } = {}) {
  const [trace, span] = [randomBytes(16).toString('hex'), randomBytes(8).toString('hex')];
  return { trace, span, headers: { traceparent: `00-${trace}-${span}-0${Number(sampled)}` } };
}

/** A collector, and the settings of nodes that send it their traces. */
async function collecting(owned, more = {}) {
  const collector = await startCollector();
  owned(() => collector.stop());
  return { collector, env: { SWITCHBOARD_TRACES__ENDPOINT: collector.url, ...more } };
}

/** How many spans a node has counted: `{exported, queue_full, failed, rejected}`. */
async function counted(node) {
  const { series } = parseMetrics((await node.api.request('GET', '/metrics')).text);
  const dropped = series.get('switchboard_spans_dropped_total').map(({ labels, value }) => [labels.reason, value]);
  return { exported: series.get('switchboard_spans_exported_total')[0].value, ...Object.fromEntries(dropped) };
}

const send = (node, user, headers, event = 'news') => node.api.request('POST', `/v1/users/${user}/events`, { json: { event, data: 'private' }, headers });

test('a send across nodes is one trace, which its caller has begun', async ({ node, redis, owned }) => {
  const store = await redis();
  const { collector, env } = await collecting(owned, { SWITCHBOARD_TRACES__HEADERS: 'x-api-key=secret-of-the-collector,x-other=1', SWITCHBOARD_TRACES__SERVICE_NAME: 'chat' });
  const [asked, holder] = await Promise.all(['asked', 'holder'].map((name) => node({ redis: store, name, env })));
  const user = someone('traced');
  const client = await connected(holder, { user });
  const { trace, span, headers } = caller();
  const answer = await send(asked, user, { ...headers, 'idempotency-key': 'once' });
  assert.deepEqual([answer.status, answer.json.connections], [200, 1]);
  await client.wait('news');
  const acked = caller();
  client.socket.on('question', (_, ack) => ack('answer'));
  await asked.api.request('POST', `/v1/users/${user}/events`, { json: { event: 'question', data: 1, ack: { timeoutMs: 5000 } }, headers: acked.headers });
  await eventually('all spans have come', () => [trace, acked.trace].every((one) => Object.keys(collector.of(one)).length === 3));

  const { 'POST /v1/users/{user}/events': call, 'send user': sent, 'deliver user': delivered } = collector.of(trace);
  assert.deepEqual([call.parent, sent.parent, delivered.parent], [span, call.id, sent.id]);
  assert.deepEqual([call.kind, sent.kind, delivered.kind], ['server', 'producer', 'consumer']);
  assert.deepEqual([call, sent, delivered].map(({ resource }) => resource['service.instance.id']), ['asked', 'asked', 'holder']);
  assert.deepEqual([call.resource['service.name'], typeof call.resource['service.version']], ['chat', 'string']);
  assert.deepEqual(call.attributes, { 'http.request.method': 'POST', 'http.route': '/v1/users/{user}/events', 'http.response.status_code': 200 });
  assert.deepEqual(sent.attributes, { 'switchboard.namespace': '/', 'switchboard.event': 'news', 'switchboard.connections': 1, 'switchboard.nodes': 1, 'switchboard.unconfirmed': 0 });
  assert.deepEqual(delivered.attributes, { 'switchboard.namespace': '/', 'switchboard.event': 'news', 'switchboard.connections': 1, 'switchboard.withheld': false });
  assert.ok([call, sent, delivered].every(({ took, failed }) => took > 0n && !failed));
  const question = collector.of(acked.trace);
  assert.deepEqual([question['send user'].attributes['switchboard.missing'], question['deliver user'].parent], [0, question['send user'].id]);

  for (const { path, headers: got, body } of collector.requests) {
    assert.deepEqual([path, got['content-type'], got['x-api-key'], got['x-other']], ['POST /v1/traces', 'application/x-protobuf', 'secret-of-the-collector', '1']);
    for (const secret of [user, API_KEY, 'private']) assert.ok(!body.includes(secret), `expected no ${secret} in what is exported`);
  }
  assert.deepEqual(await counted(asked), { exported: 4, queue_full: 0, failed: 0, rejected: 0 });
  assert.ok(!`${asked.log}${holder.log}`.includes('secret-of-the-collector'));
});

test('the caller decides whether its trace is sampled, and what is no traceparent begins one', async ({ node, owned }) => {
  const { collector, env } = await collecting(owned);
  const alone = await node({ name: 'alone', env });
  const unsampled = caller({ sampled: false });
  await send(alone, 'nobody', unsampled.headers);
  const malformed = caller();
  await send(alone, 'nobody', { traceparent: malformed.headers.traceparent.toUpperCase() });
  await alone.api.request('GET', '/healthz');
  await alone.api.request('GET', '/v1/nowhere');
  const last = caller();
  await alone.api.request('GET', '/v1/nodes', { headers: last.headers, key: 'wrong' });
  await eventually('the last span has come', () => 'GET /v1/nodes' in collector.of(last.trace));
  assert.equal(collector.of(last.trace)['GET /v1/nodes'].attributes['http.response.status_code'], 401);
  assert.deepEqual(collector.of(unsampled.trace), {});
  assert.deepEqual(collector.of(malformed.trace), {});
  const begun = collector.spans.filter(({ trace }) => trace !== last.trace);
  assert.deepEqual(begun.map(({ name }) => name).sort(), ['POST /v1/users/{user}/events', 'send user']);
  assert.deepEqual(begun.map(({ parent }) => parent === '').sort(), [false, true]);
});

test('of the traces that begin here the configured share is sampled, and callers still decide on theirs', async ({ node, owned }) => {
  const { collector, env } = await collecting(owned, { SWITCHBOARD_TRACES__SAMPLE_RATIO: '0' });
  const alone = await node({ name: 'alone', env });
  await send(alone, 'nobody', {});
  const { trace, headers } = caller();
  await send(alone, 'nobody', headers);
  await eventually('the spans have come', () => collector.spans.length >= 2);
  assert.deepEqual(collector.spans.map((span) => span.trace), [trace, trace]);
});

test('a call to a backend is in the trace of the event, and so is what the backend has done', async ({ node, redis, owned }) => {
  const [store, backend] = [await redis(), await startBackend()];
  owned(() => backend.stop());
  backend.on('connection.connect', () => ({ allow: true }));
  const { collector, env } = await collecting(owned);
  const settings = { ...env, ...calling({ url: backend.url, events: ['chat:*'], connect: true, notify: ['connection.opened'] }) };
  const [door, other] = await Promise.all(['door', 'other'].map((name) => node({ redis: store, name, env: settings })));
  const [author, reader] = [await connected(door, { user: someone('author') }), await connected(other, { user: someone('reader') })];
  const { userId } = await reader.ready();
  backend.on('chat:say', ({ args }) => ({ ack: 'said', actions: [{ do: 'emit', user: userId, event: 'said', data: args[0] }] }));
  assert.equal(await author.ask('chat:say', 'hello'), 'said');
  await reader.wait('said');
  await eventually('both are told of', () => backend.calls.filter(({ type }) => type === 'connection.opened').length === 2);
  for (const { type, headers } of backend.calls) assert.match(headers.traceparent ?? '', TRACEPARENT, type);

  const call = backend.calls.find(({ data }) => data.event === 'chat:say');
  const [, trace, span] = TRACEPARENT.exec(call.headers.traceparent);
  await eventually('all spans have come', () => Object.keys(collector.of(trace)).length === 4);
  const { 'client.event': event, 'client.event app': asked, 'send user': sent, 'deliver user': delivered } = collector.of(trace);
  assert.deepEqual([event.parent, asked.parent, sent.parent, delivered.parent], ['', event.id, event.id, sent.id]);
  assert.deepEqual([asked.id, asked.kind, delivered.resource['service.instance.id']], [span, 'client', 'other']);
  assert.deepEqual(event.attributes, { 'switchboard.namespace': '/', 'switchboard.event': 'chat:say', 'switchboard.connection': author.id });
  assert.deepEqual(asked.attributes, { 'switchboard.backend': 'app', 'switchboard.webhook_id': call.headers['webhook-id'], 'switchboard.outcome': 'ok' });
  backend.on('chat:fail', () => (response) => response.writeHead(500).end());
  await author.ask('chat:fail');
  const failing = () => collector.spans.find(({ name, failed }) => name === 'client.event app' && failed);
  await eventually('the failure has come', () => failing() !== undefined);
  assert.equal(failing().attributes['switchboard.outcome'], 'status');
});

test('a collector that hangs, refuses or is away harms no call, and what it has not got is counted', { ms: 90000 }, async ({ node, owned }) => {
  const { collector, env } = await collecting(owned, { SWITCHBOARD_TRACES__TIMEOUT: '3s' });
  const alone = await node({ name: 'alone', env });
  // More than the queue and what is under way hold.
  collector.answer = () => {};
  const messages = Array.from({ length: 1000 }, () => ({ user: 'nobody', event: 'news' }));
  const sent = await Promise.all([1, 2, 3, 4].map(() => alone.api.ok('POST', '/v1/events', { messages })));
  assert.deepEqual(sent.map(({ results }) => results.length), [1000, 1000, 1000, 1000]);
  await eventually('what finds no room is dropped', async () => (await counted(alone)).queue_full > 0);
  await eventually('what is not answered has failed', async () => (await counted(alone)).failed > 0, { ms: 15000 });
  // It refuses, and then takes a part.
  collector.answer = (response) => response.writeHead(503).end();
  await eventually('all that waited has failed', async () => {
    const { queue_full, failed } = await counted(alone);
    return queue_full + failed === 4004;
  }, { ms: 15000 });
  assert.match(alone.log, /spans can't be exported.*503/);
  const warnings = alone.lines.filter((line) => line.includes("spans can't be exported"));
  assert.ok(warnings.length <= 8, 'expected a line for a batch at the most');
  // partial_success {rejected_spans: 1}
  collector.answer = (response) => response.end(Buffer.from([0x0a, 0x02, 0x08, 0x01]));
  const { trace, headers } = caller();
  await send(alone, 'nobody', headers);
  await eventually('one of two is taken', async () => (await counted(alone)).exported === 1);
  assert.deepEqual([Object.keys(collector.of(trace)).length, (await counted(alone)).rejected], [2, 1]);
  // The last spans are sent as the node ends, and a collector that hangs holds it up no longer than it says.
  collector.answer = () => {};
  const end = caller();
  await send(alone, 'nobody', end.headers);
  alone.signal('SIGTERM');
  const { code } = await alone.end();
  assert.deepEqual([code, Object.keys(collector.of(end.trace)).length], [0, 2]);
  assert.match(alone.log, /the collector has not taken the last spans in time/);
});

test('without a collector no backend is told of a trace', async ({ node, owned }) => {
  const backend = await startBackend();
  owned(() => backend.stop());
  backend.on('connection.connect', () => ({ allow: true }));
  const alone = await node({ name: 'alone', env: calling({ url: backend.url, events: ['*'], connect: true }) });
  const client = await connected(alone, { user: someone('untraced') });
  await client.ask('say');
  assert.equal((await send(alone, 'nobody', caller().headers)).status, 200);
  assert.deepEqual(backend.calls.map(({ type }) => type), ['connection.connect', 'client.event']);
  assert.ok(backend.calls.every(({ headers }) => !('traceparent' in headers)));
  assert.deepEqual(await counted(alone), { exported: 0, queue_full: 0, failed: 0, rejected: 0 });
});
