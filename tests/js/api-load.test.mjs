// What the API refuses for load (api.rate, api.in_flight), and what it never does: ends, health and metrics.

import assert from 'node:assert/strict';
import { connected, eventually, expectProblem, someone, test, token } from './harness.mjs';

const ask = (api, method, path, options) => api.request(method, path, options);
const stats = (api, options) => ask(api, 'GET', '/v1/stats', options);

function refused(answer, status, code) {
  expectProblem(answer, status, 'a call beyond the limit');
  assert.equal(answer.json.code, code);
  assert.equal(answer.headers['retry-after'], '1');
}

/** Everything that ends somebody, each with somebody who is there, and what operators ask. */
async function nothingElseIsRefused(node) {
  const { api } = node;
  for (const end of [
    (user) => ask(api, 'POST', `/v1/users/${user}/disconnect`, { json: {} }),
    (user) => ask(api, 'PUT', `/v1/users/${user}/ban`, { json: {} }),
    (user) => ask(api, 'POST', `/v1/users/${user}/revoke-tokens`, { json: {} }),
    (user) => ask(api, 'POST', '/v1/tokens/revoke', { json: { jti: `token-of-${user}` } }),
    (_, id) => ask(api, 'DELETE', `/v1/connections/${id}`),
  ]) {
    const user = someone('leaves');
    const client = await connected(node, { token: token(user, { jti: `token-of-${user}`, iat: Math.floor(Date.now() / 1000) - 5 }) });
    const answer = await end(user, client.id);
    assert.equal(answer.status, 200, answer.text);
    await client.wait('disconnect');
    assert.equal((await ask(api, 'DELETE', `/v1/users/${user}/ban`)).status, 200);
  }
  for (const path of ['/healthz', '/readyz', '/metrics']) assert.equal((await ask(api, 'GET', path)).status, 200, path);
}

/** Calls that stay in flight until their client has gone: it is sent to, and never answers. */
async function inFlight(node, user, count) {
  const client = await connected(node, { user });
  const calls = Array.from({ length: count }, () => ask(node.api, 'POST', `/v1/users/${user}/events`, { json: { event: 'silence', ack: { timeoutMs: 30000 } }, ms: 60000 }));
  await client.wait('silence', { nth: count });
  return { client, calls };
}

test('api.in_flight: further calls get 503 and Retry-After, and whoever has to go goes', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_API__IN_FLIGHT: '3' } });
  const user = someone('silent');
  const { client, calls } = await inFlight(door, user, 3);
  for (const [method, path, json] of [['GET', '/v1/stats'], ['GET', `/v1/users/${user}`], ['POST', '/v1/presence', { users: [user] }], ['POST', `/v1/users/${user}/events`, { event: 'x' }]]) {
    refused(await ask(door.api, method, path, { json }), 503, 'overloaded');
  }
  await nothingElseIsRefused(door);
  assert.equal(client.count('x'), 0, 'expected nothing to be done of what is refused');
  assert.equal((await ask(door.api, 'POST', `/v1/users/${user}/disconnect`, { json: {} })).status, 200);
  for (const call of calls) assert.equal((await call).status, 200);
  assert.equal((await stats(door.api)).status, 200);
});

test('a call with an Idempotency-Key counts once, also one that is repeated, and needs the scope', async ({ node }) => {
  const READER = 'a-reading-key-of-the-tests-0123456789';
  const door = await node({ env: { SWITCHBOARD_API__IN_FLIGHT: '1' }, config: `[[api.keys]]\nname = "reader"\nkey = "${READER}"\nscopes = ["read"]\n` });
  const send = (key) => ask(door.api, 'POST', `/v1/users/nobody/events`, { json: { event: 'x' }, headers: { 'idempotency-key': 'k' }, key });
  const first = await send();
  assert.equal(first.status, 200, first.text);
  expectProblem(await send(READER), 403, 'a key without the scope');
  const { client, calls } = await inFlight(door, someone('silent'), 1);
  refused(await send(), 503, 'overloaded');
  client.socket.close();
  await Promise.all(calls);
  const again = await send();
  assert.equal(again.headers['idempotent-replayed'], 'true');
  assert.deepEqual(again.json, first.json);
});

test('api.rate: beyond it a key gets 429 and Retry-After, another key and whoever has to go do not', async ({ node }) => {
  const OTHER = 'another-key-of-the-tests-0123456789';
  const door = await node({ env: { SWITCHBOARD_API__RATE: '5' }, config: `[[api.keys]]\nname = "other"\nkey = "${OTHER}"\nscopes = ["read"]\n` });
  const burst = async (key) => Promise.all(Array.from({ length: 40 }, () => stats(door.api, { key })));
  const answers = await burst();
  const late = answers.filter(({ status }) => status !== 200);
  assert.ok(late.length >= 10 && late.length <= 35, `${late.length} of 40 were refused`);
  for (const answer of late) refused(answer, 429, 'rate_limited');
  assert.equal((await stats(door.api, { key: OTHER })).status, 200);
  // Who comes with a token is somebody of its own.
  const [one, two] = [token(someone('admin'), { role: 'admin' }), token(someone('admin'), { role: 'admin' })];
  assert.ok((await burst(one)).some(({ status }) => status === 429));
  assert.equal((await stats(door.api, { key: two })).status, 200);
  await burst();
  await nothingElseIsRefused(door);
  await eventually('the key is served again', async () => (await stats(door.api)).status === 200);
});

test('api.rate and api.in_flight are replaced by SIGHUP, and count what is in flight already', async ({ node }) => {
  const door = await node({ config: '[api]\n' });
  const user = someone('silent');
  const { calls } = await inFlight(door, user, 2);
  assert.equal((await stats(door.api)).status, 200);
  door.reload('[api]\nin_flight = 2\n');
  await eventually('the node holds itself to the new number', async () => (await stats(door.api)).status === 503);
  door.reload('[api]\nin_flight = 3\nrate = 1\n');
  await eventually('the node holds the key to the new rate', async () => (await stats(door.api)).status === 429);
  door.reload('[api]\n');
  await eventually('there is no rate any more', async () => (await Promise.all(Array.from({ length: 20 }, () => stats(door.api)))).every(({ status }) => status === 200));
  await door.api.disconnect(user);
  for (const call of calls) assert.equal((await call).status, 200);
});
