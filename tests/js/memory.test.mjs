// limits.memory: a node over it takes nobody in, ends the clients with the longest queues, and keeps the others.

import assert from 'node:assert/strict';
import { connect, connected, eventually, exchange, parseMetrics, RawSocket, someone, test, token } from './harness.mjs';

const HANDSHAKE = '/socket.io/?EIO=4&transport=polling';
const metrics = async (node) => parseMetrics((await node.api.request('GET', '/metrics')).text);

test('limits.memory: newcomers get 503, the longest queues are cut with 4002, who is well stays, and then there is room again', { ms: 180000 }, async ({ node }) => {
  const env = { SWITCHBOARD_LIMITS__MEMORY: '220MB', SWITCHBOARD_LIMITS__SEND_QUEUE_BYTES: '64MB', SWITCHBOARD_LIMITS__WRITE_DEADLINE: '120s' };
  const door = await node({ internal: true, env });
  assert.equal((await metrics(door)).value('switchboard_memory_limit_bytes'), 220_000_000);
  const well = await connected(door, { user: someone('well'), reconnection: false });
  const polls = await connected(door, { user: someone('polls'), transports: ['polling'], reconnection: false });
  const slow = someone('slow');
  await Promise.all(Array.from({ length: 10 }, async () => {
    const raw = new RawSocket(door.url);
    await raw.connect({ token: token(slow) });
    raw.stall();
  }));
  const data = 'x'.repeat(900_000);
  let refused;
  await eventually('the node is over its memory', async () => {
    await door.api.send(slow, 'flood', data);
    refused = await exchange(door.url, 'GET', HANDSHAKE);
    assert.equal(refused.status, 503);
  }, { ms: 60000 });
  assert.equal(refused.headers['retry-after'], '1');
  await door.line(/more memory than limits.memory/);
  const newcomer = connect(door, { user: someone('newcomer'), reconnectionDelay: 200, reconnectionDelayMax: 500 });
  await eventually('the longest queues are cut', async () => {
    assert.ok((await metrics(door)).value('switchboard_disconnects_total', { reason: 'slow_consumer' }) > 0);
  }, { ms: 20000 });
  // What was freed is given back to the system, and the node takes newcomers again.
  await newcomer.ready({ ms: 60000 });
  const after = await metrics(door);
  assert.ok(after.value('process_resident_memory_bytes') < 220_000_000);
  assert.ok(after.value('switchboard_connect_errors_total', { reason: 'memory' }) > 0);
  await eventually('what was not told is counted', async () => {
    assert.ok((await metrics(door)).value('switchboard_messages_dropped_total', { reason: 'slow_consumer' }) > 0);
  });
  // No more than it took: the queues of the others are still there.
  assert.ok((await door.api.user(slow)).connections.length > 0);
  for (const client of [well, polls]) {
    assert.equal(client.count('disconnect'), 0);
    await client.granted('devices');
  }
});

test('limits.memory = 0 is no limit, and the default is a part of what there is', async ({ node }) => {
  const unlimited = await node({ env: { SWITCHBOARD_LIMITS__MEMORY: '0' } });
  assert.equal((await metrics(unlimited)).value('switchboard_memory_limit_bytes'), 0);
  const usual = await node();
  const limit = (await metrics(usual)).value('switchboard_memory_limit_bytes');
  assert.ok(limit > 50_000_000, `${limit}`);
  assert.equal((await exchange(usual.url, 'GET', HANDSHAKE)).status, 200);
});

test('a node whose memory is full when it starts to look takes nobody in, and answers its operators', async ({ node }) => {
  const door = await node({ internal: true, env: { SWITCHBOARD_LIMITS__MEMORY: '1MB' } });
  await eventually('newcomers get 503', async () => assert.equal((await exchange(door.url, 'GET', HANDSHAKE)).status, 503));
  assert.equal((await exchange(door.internalUrl, 'GET', '/healthz')).status, 200);
});
