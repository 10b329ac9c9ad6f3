// Contract 3: whose token is good for the HTTP API, what a backend's client may leave out, and in which order one call's
// messages come.

import assert from 'node:assert/strict';
import { API_KEY, connect, connected, eventually, exchange, expectProblem, onBothRegistries, segment, someone, soon, test, token } from './harness.mjs';

/** An administrator's token, which can be revoked by itself. */
const admins = (user, claims = {}) => token(user, { role: 'admin', jti: user, iat: soon(-10), ...claims });

/** What is held against an administrator, and how the answer says so. */
const barred = [
  ['the token is revoked by its jti', (api, user) => api.revokeToken(user), /revoked/],
  ["the user's tokens are revoked", (api, user) => api.revokeTokens(user), /revoked/],
  ['the user is disconnected and its tokens are revoked', (api, user) => api.disconnect(user, { revokeTokens: true }), /revoked/],
  ['the user is banned', (api, user) => api.ban(user), /banned/],
];

onBothRegistries((world) => {
  for (const [what, act, detail] of barred) {
    test(`an administrator's token is good for no call once ${what}`, async () => {
      const [user, victim] = [someone('admin'), someone('victim')];
      const key = admins(user);
      const client = await connected(world.door, { user: victim });
      assert.equal((await world.desk.api.request('GET', '/v1/stats', { key })).status, 200, 'expected the token to be good before');
      await act(world.api, user);
      for (const node of [world.desk, world.door]) {
        for (const [method, path, json] of [
          ['GET', '/v1/stats'],
          ['GET', '/metrics'],
          ['GET', `/v1/users/${victim}`],
          ['POST', `/v1/users/${victim}/events`, { event: 'x' }],
          ['POST', `/v1/users/${victim}/disconnect`, {}],
          ['PUT', `/v1/users/${victim}/ban`, {}],
          ['POST', `/v1/users/${user}/sessions`, { role: 'admin' }],
          ['DELETE', `/v1/users/${segment(user)}/ban`],
        ]) {
          const answer = await node.api.request(method, path, { key, json });
          expectProblem(answer, 401, `${method} ${path} when ${what}`);
          assert.equal(answer.json.code, 'unauthorized');
          assert.match(answer.json.detail, detail);
        }
      }
      await world.api.send(victim, 'still', 1);
      await client.wait('still');
      assert.equal(client.count('x') + client.count('disconnect'), 0, client.history());
    });
  }

  test('who is banned does not lift the ban; once a key has, the token is good again', async () => {
    const user = someone('admin');
    const key = admins(user);
    await world.api.ban(user, { reason: 'left the company' });
    expectProblem(await world.api.request('DELETE', `/v1/users/${segment(user)}/ban`, { key }), 401, 'a ban lifted by the banned');
    assert.equal((await world.api.banOf(user)).banned, true);
    await world.api.unban(user);
    assert.equal((await world.api.request('GET', '/v1/stats', { key })).status, 200);
  });

  test("a newer token than the revocation, and another administrator's, stay good", async () => {
    const [user, other] = [someone('admin'), someone('admin')];
    const others = admins(other);
    await world.api.revokeTokens(user, { issuedBefore: new Date(soon(-5) * 1000).toISOString() });
    await world.api.revokeToken(someone('jti'));
    await world.api.ban(someone('somebody'));
    expectProblem(await world.api.request('GET', '/v1/stats', { key: admins(user) }), 401, 'the older token');
    assert.equal((await world.api.request('GET', '/v1/stats', { key: admins(user, { iat: soon(-1), jti: 'newer' }) })).status, 200);
    assert.equal((await world.api.request('GET', '/v1/stats', { key: others })).status, 200);
  });

  test('a token of a session that has ended is good for no call', async () => {
    const user = someone('admin');
    const session = await world.api.openSession(user, { role: 'admin' });
    assert.equal((await world.api.request('GET', '/v1/stats', { key: session.token })).status, 200);
    const [cookie] = session.cookie.split(';');
    assert.equal((await exchange(world.door.url, 'POST', '/api/logout', { headers: { cookie, 'content-length': 0 } })).status, 204);
    const answer = await world.api.request('GET', '/v1/stats', { key: session.token });
    expectProblem(answer, 401, 'the token of a session that has ended');
    assert.match(answer.json.detail, /session/);
  });

  test('a body needs no Content-Type: what curl -d and fetch with a text send is taken', async () => {
    const user = someone();
    const client = await connected(world.door, { user });
    const bodies = ['application/x-www-form-urlencoded', 'text/plain;charset=UTF-8', 'application/json', undefined];
    for (const [i, type] of bodies.entries()) {
      const body = JSON.stringify({ event: 'typed', data: i });
      const answer = await exchange(world.desk.url, 'POST', `/v1/users/${user}/events`, {
        headers: { authorization: `Bearer ${API_KEY}`, 'content-length': body.length, ...(type && { 'content-type': type }) },
        body,
      });
      assert.equal(answer.status, 200, `expected 200 with Content-Type ${type}, got ${answer.text}`);
      assert.deepEqual(await client.wait('typed', { nth: i + 1 }), [i]);
    }
  });

  test('a ban for ever is told back as it was given', async () => {
    const user = someone();
    const ban = { banned: true, reason: null, until: '9999-12-31T23:59:59Z' };
    assert.deepEqual(await world.api.ban(user, { until: ban.until }), { ...ban, disconnected: 0, nodes: 0, remaining: [] });
    for (const node of [world.desk, world.door]) assert.deepEqual(await node.api.banOf(user), ban);
    const revoked = await world.api.revokeTokens(user, { issuedBefore: ban.until });
    assert.equal(revoked.revokedBefore, ban.until);
    await world.api.revokeToken(user, { expiresAt: ban.until });
    expectProblem(await world.api.request('GET', '/v1/stats', { key: admins(user) }), 401, 'the token of who is banned for ever');
  });

  test('one call’s messages reach a client in order, whatever says that they are for it', async () => {
    const user = someone('ordered');
    const client = await connected(world.door, { user, deviceId: user });
    const near = await connected(world.desk, { user, deviceId: `${user}-near` });
    for (let round = 0; round < 5; round += 1) {
      const targets = (one) => [{ user }, { connection: one.id }, { room: `user:${user}` }, { user, device: one === client ? user : `${user}-near` }];
      for (const one of [client, near]) {
        const event = `n-${round}-${one.id}`;
        const messages = Array.from({ length: 60 }, (_, i) => ({ ...targets(one)[(i * 7 + round) % 4], event, data: i }));
        const { results } = await world.api.ok('POST', '/v1/events', { messages });
        for (const [i, result] of results.entries()) assert.ok(result.connections >= 1, `expected message ${i} to reach somebody, got ${JSON.stringify(result)}`);
        await one.wait(event, { nth: 60 });
        const got = one.seen.filter((entry) => entry.name === event).map((entry) => entry.args[0]);
        assert.deepEqual(got, Array.from({ length: 60 }, (_, i) => i));
      }
    }
  });
});

test('with Redis away an API key is let in, and a token is told to try again', async ({ node, redis, link }) => {
  const way = await link(await redis());
  const door = await node({ redis: way });
  const key = admins(someone('admin'));
  assert.equal((await door.api.request('GET', '/v1/stats', { key })).status, 200);
  way.cut();
  await eventually('a token is answered with 503', async () => {
    const answer = await door.api.request('GET', '/v1/openapi.json', { key });
    assert.equal(answer.status, 200, 'expected what asks for no key to be there');
    const refused = await door.api.request('GET', '/metrics', { key });
    expectProblem(refused, 503, 'a token whose standing nobody knows');
    assert.ok(Number(refused.headers['retry-after']) >= 1, 'expected a Retry-After');
  }, { ms: 30000 });
  assert.equal((await door.api.request('GET', '/metrics')).status, 200, 'expected a key to be good without Redis');
  const plain = await door.api.request('GET', '/metrics', { key: token(someone()) });
  expectProblem(plain, 403, 'a token without the role, which opens nothing either way');
  way.heal();
  await eventually('the token is good again', async () => assert.equal((await door.api.request('GET', '/v1/stats', { key })).status, 200), { ms: 60000 });
});

test('/metrics on the public listener: a key is enough, whatever it may do besides', async ({ node }) => {
  const door = await node({ config: '[[api.keys]]\nname = "sender"\nkey = "a-key-that-may-only-send-0123456789"\nscopes = ["send"]\n' });
  const key = 'a-key-that-may-only-send-0123456789';
  assert.equal((await door.api.request('GET', '/metrics', { key })).status, 200);
  expectProblem(await door.api.request('GET', '/v1/stats', { key }), 403, '/v1/stats with a key that may only send');
  expectProblem(await door.api.request('GET', '/metrics', { key: token(someone()) }), 403, '/metrics with a token without the role');
});

const ISSUER = 'https://staff.example';
const overrides = (roles) => ['/', '/public:none', `/admin:${roles}`].map((entry) => {
  const [path, how] = entry.split(':');
  const more = how === 'none' ? 'auth = "none"\n' : how ? `roles = ["${how}"]\nissuer = "${ISSUER}"\naudience = "desk"\n` : '';
  return `[[namespaces]]\npath = "${path}"\n${more}\n`;
}).join('');
const PATHS = [['GET', '/v1/stats'], ['GET', '/metrics'], ['POST', '/v1/broadcast', { event: 'x' }], ['POST', '/v1/users/1/sessions', { role: 'admin' }]];

/** What a token opens: the outcome of a connect to /admin, and the statuses of the API. */
async function opens(door, key) {
  const outcome = await connect(door, { token: key, namespace: '/admin' }).outcome();
  const answers = await Promise.all(PATHS.map(([method, path, json]) => door.api.request(method, path, { key, json })));
  return { outcome, statuses: answers.map(({ status }) => status) };
}

test('a token opens the API exactly where it opens /admin: by its issuer, audience and roles', async ({ node }) => {
  const door = await node({ config: `${overrides('operator')}[auth.jwt]\nissuer = "https://users.example"\n` });
  const ours = { iss: ISSUER, aud: 'desk' };
  const users = { iss: 'https://users.example', aud: 'desk' };
  assert.deepEqual(await opens(door, token('1', { ...ours, role: 'operator' })), { outcome: 'ready', statuses: [200, 200, 200, 200] });
  for (const [what, claims, outcome, status] of [
    ['the issuer of every other namespace', { ...users, role: 'operator' }, 'Invalid token', 401],
    ['the issuer of every other namespace, and the role of the default', { ...users, role: 'admin' }, 'Invalid token', 401],
    ['no issuer', { aud: 'desk', role: 'operator' }, 'Invalid token', 401],
    ['another audience', { ...ours, aud: 'chat', role: 'operator' }, 'Invalid token', 401],
    ['the role that /admin has by default', { ...ours, role: 'admin' }, 'Admin access required', 403],
    ['no role', ours, 'Admin access required', 403],
  ]) {
    assert.deepEqual(await opens(door, token('1', claims)), { outcome, statuses: [status, status, status, status] }, what);
  }
});

test('where there is no /admin, no token opens the API', async ({ node }) => {
  const door = await node({ config: '[[namespaces]]\npath = "/"\n' });
  const key = token('1', { role: 'admin' });
  assert.equal(await connect(door, { token: key }).outcome(), 'ready');
  assert.deepEqual(await opens(door, key), { outcome: 'Invalid namespace', statuses: [401, 401, 401, 401] });
  assert.equal((await door.api.request('GET', '/v1/stats')).status, 200);
});

test('api.jwt = false closes the API to tokens, and SIGHUP opens it again; /admin is not touched', async ({ node }) => {
  const door = await node({ config: '[api]\njwt = false\n' });
  const key = token('1', { role: 'admin' });
  assert.deepEqual(await opens(door, key), { outcome: 'ready', statuses: [401, 401, 401, 401] });
  assert.equal((await door.api.request('GET', '/v1/stats')).status, 200);
  door.reload('[api]\njwt = true\n');
  await eventually('the token is taken', async () => assert.equal((await door.api.request('GET', '/v1/stats', { key })).status, 200));
  const closed = await node({ env: { SWITCHBOARD_API__JWT: 'false' } });
  assert.deepEqual(await opens(closed, key), { outcome: 'ready', statuses: [401, 401, 401, 401] });
});
