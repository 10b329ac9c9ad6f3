// SIGHUP: keys, secrets and limits are replaced while a node runs; and the audit lines, which say who did what to whom.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { renameSync } from 'node:fs';
import { API_KEY, connect, connected, eventually, expectProblem, JWT_SECRET, onBothRegistries, segment, someone, soon, test, token } from './harness.mjs';
import { SESSION_SECRET, startExpress } from './support/express.mjs';

const OLD = 'the-secret-before-of-the-tests-0123456789';
const ALL = '["read", "send", "disconnect", "admin"]';
const key = (name, text, scopes = ALL) => `[[api.keys]]\nname = "${name}"\nkey = "${text}"\nscopes = ${scopes}\n\n`;
const sha256 = (text) => `sha256:${createHash('sha256').update(text).digest('hex')}`;

const FIRST = 'first-key-of-the-tests-0123456789';
const SECOND = 'second-key-of-the-tests-0123456789';

/** A node whose keys and secrets are in its file, and nowhere else. */
const fromFile = (node, config, more = {}) => node({ bare: true, config, ...more });
const status = async (at, apiKey, path = '/v1/stats') => (await at.api.request('GET', path, { key: apiKey })).status;
/** Waits until a node answers a key with a status: then the file has been taken. */
const answers = (at, apiKey, wanted) => eventually(`${at.name} answers ${wanted} to a key`, async () => assert.equal(await status(at, apiKey), wanted));

test('API keys are replaced by SIGHUP: the new one works, the old one does no more, and nobody is disconnected', async ({ node }) => {
  const secret = `[auth.jwt]\nsecret = "${JWT_SECRET}"\n\n`;
  const door = await fromFile(node, `${secret}${key('first', FIRST)}`);
  const client = await connected(door, { user: someone('stays') });
  assert.deepEqual([await status(door, FIRST), await status(door, SECOND)], [200, 401]);
  door.reload(`${secret}${key('first', FIRST)}${key('second', SECOND, '["read"]')}`);
  await answers(door, SECOND, 200);
  assert.equal(await status(door, FIRST), 200);
  expectProblem(await door.api.request('POST', '/v1/users/x/disconnect', { json: {}, key: SECOND }), 403, 'a disconnect with scope read');
  door.reload(`${secret}${key('second', SECOND)}`);
  await answers(door, FIRST, 401);
  assert.equal((await door.api.request('POST', '/v1/users/x/disconnect', { json: {}, key: SECOND })).status, 200, 'expected the new scopes to count');
  await client.granted('devices');
  assert.equal(client.count('disconnect'), 0, client.history());
  assert.ok(![FIRST, SECOND, JWT_SECRET].some((text) => door.log.includes(text)), 'expected no key in the log');
});

test('signing secrets are replaced by SIGHUP, one step at a time', async ({ node }) => {
  const keys = key('first', FIRST);
  const door = await fromFile(node, `${keys}[auth.jwt]\nsecret = "${OLD}"\n`);
  const [before, after] = [token('1', {}, { secret: OLD }), token('1')];
  const client = await connected(door, { token: before });
  await connect(door, { token: after }).refused('Invalid token');

  door.reload(`${keys}[auth.jwt]\nsecret = "${JWT_SECRET}"\nprevious_secrets = ["${OLD}"]\n`);
  await eventually('the new secret verifies', async () => assert.equal(await connect(door, { token: after }).outcome(), 'ready'));
  await connected(door, { token: before });
  const { token: minted } = (await door.api.request('POST', '/v1/users/1/sessions', { json: {}, key: FIRST })).json;
  await connected(door, { token: minted });

  door.reload(`${keys}[auth.jwt]\nsecret = "${JWT_SECRET}"\n`);
  await eventually('the old secret verifies no more', async () => assert.equal(await connect(door, { token: before }).outcome(), 'Invalid token'));
  await connected(door, { token: after });
  await connected(door, { token: minted });
  assert.equal(client.count('disconnect'), 0, `expected a rotation to disconnect nobody; history: ${client.history()}`);
});

test('limits are replaced by SIGHUP', async ({ node }) => {
  const rest = `${key('first', FIRST)}[auth.jwt]\nsecret = "${JWT_SECRET}"\n\n`;
  const door = await fromFile(node, `${rest}[limits]\nconnections_per_user = 1\n`);
  const user = someone('limited');
  const first = await connected(door, { user });
  await connect(door, { user }).refused('Too many connections');
  door.reload(`${rest}[limits]\nconnections_per_user = 2\n`);
  await eventually('a second connection gets in', async () => assert.equal(await connect(door, { user }).outcome(), 'ready'));
  await connect(door, { user }).refused('Too many connections');
  door.reload(`${rest}[limits]\nconnections_per_user = 2\nconnections_per_user_policy = "evict_oldest"\n`);
  await eventually('the policy is another one', async () => assert.equal(await connect(door, { user }).outcome(), 'ready'));
  await first.kicked(4504);
});

test('session secrets are replaced by SIGHUP', async ({ node, redis, owned }) => {
  const store = await redis();
  const rest = `${key('first', FIRST)}[auth.jwt]\nsecret = "${JWT_SECRET}"\n\n`;
  const door = await fromFile(node, `${rest}[auth.session]\nsecrets = ["${OLD}"]\n`, { redis: store });
  const app = await startExpress({ redis: store });
  owned(app.stop);
  const { cookie } = await app.browser().login({ userId: someone('cookie') });
  const visit = () => connect(door, { auth: {}, extraHeaders: { cookie } });
  await visit().refused('Not authenticated');
  door.reload(`${rest}[auth.session]\nsecrets = ["${SESSION_SECRET}", "${OLD}"]\n`);
  await eventually('the new session secret verifies', async () => assert.equal(await visit().outcome(), 'ready'));
});

for (const [what, bad, culprit] of [
  ['no TOML', 'this is = = no TOML\n', /\.toml|TOML|line|parse|configuration/i],
  ['an unknown key', `${key('second', SECOND)}[limits]\nconections_per_user = 1\n`, /conections_per_user/],
  ['a value of a wrong type', `${key('second', SECOND)}[limits]\nconnections_per_user = "many"\n`, /connections_per_user/],
  ['a value that can\'t be', `${key('second', SECOND)}[auth.jwt]\nleeway = "soon"\n`, /leeway/],
  ['a key without scopes', `${key('second', SECOND, '[]')}`, /keys|scopes/],
  ['a hash that is none', `${key('second', 'sha256:0123')}`, /keys|key/],
  ['a PEM file that is not there', `${key('second', SECOND)}[auth.jwt]\npublic_key_file = "/nonexistent/key.pem"\n`, /public_key_file|key\.pem/],
]) {
  test(`a bad file changes nothing, and the log says so: ${what}`, async ({ node }) => {
    const rest = bad.includes('[auth.jwt]') ? bad.replace('[auth.jwt]\n', `[auth.jwt]\nsecret = "${JWT_SECRET}"\n`) : `${bad}\n[auth.jwt]\nsecret = "${JWT_SECRET}"\n`;
    const good = `${key('first', FIRST)}[auth.jwt]\nsecret = "${JWT_SECRET}"\n`;
    const door = await fromFile(node, good);
    const client = await connected(door, { user: someone('stays') });
    const from = door.lines.length;
    door.reload(rest);
    const line = await eventually('the node says what is wrong with its new configuration', async () => {
      const said = door.lines.slice(from).find((one) => /\b(WARN|ERROR)\b/.test(one));
      assert.ok(said, 'no line at WARN or ERROR');
      return door.lines.slice(from).join('\n');
    });
    assert.match(line, culprit, 'expected the line to name the culprit');
    assert.ok(!line.includes(SECOND) && !line.includes(JWT_SECRET), 'expected no key and no secret in it');
    assert.deepEqual([await status(door, FIRST), await status(door, SECOND)], [200, 401], 'expected nothing of a bad file to be taken');
    await connected(door, { user: someone('later') });
    assert.equal(client.count('disconnect'), 0);
    // And the next good one is taken.
    door.reload(`${good}\n${key('second', SECOND)}`);
    await answers(door, SECOND, 200);
  });
}

test('a file that is gone changes nothing', async ({ node }) => {
  const door = await node({ config: key('first', FIRST) });
  renameSync(door.configFile, `${door.configFile}.gone`);
  const from = door.lines.length;
  door.reload();
  await eventually('the node says so', async () => assert.ok(door.lines.slice(from).some((line) => /\b(WARN|ERROR)\b/.test(line)), 'no line at WARN or ERROR'));
  assert.equal(await status(door, FIRST), 200);
});

test('SIGHUP without a file, twice, and while clients come: a node lives through it', async ({ node }) => {
  const door = await node();
  const client = await connected(door, { user: someone('stays') });
  for (let i = 0; i < 20; i += 1) {
    door.reload();
    await connected(door, { user: someone('comes') });
  }
  assert.equal(door.ended, undefined);
  assert.equal(await status(door, API_KEY), 200);
  assert.equal(client.count('disconnect'), 0);
});

test('what the environment says goes before the file, also when that is read again', async ({ node }) => {
  const door = await node({ config: `[limits]\nconnections_per_user = 1\n\n${key('first', FIRST)}`, env: { SWITCHBOARD_LIMITS__CONNECTIONS_PER_USER: '2' } });
  const user = someone('limited');
  for (let i = 0; i < 2; i += 1) await connected(door, { user });
  door.reload(`[limits]\nconnections_per_user = 5\n\n${key('second', SECOND)}`);
  await answers(door, SECOND, 200);
  await connect(door, { user }).refused('Too many connections');
  assert.equal(await status(door, API_KEY), 200, 'expected the key of the environment to stay');
});

// --- hashed keys --------------------------------------------------------------------------------------------------------

test('an API key may be kept as its SHA-256; the hash itself opens nothing', async ({ node }) => {
  const door = await node({ config: key('hashed', sha256(FIRST), '["read", "disconnect"]') });
  assert.equal(await status(door, FIRST), 200);
  expectProblem(await door.api.request('POST', '/v1/users/x/sessions', { json: {}, key: FIRST }), 403, 'a session without its scope');
  for (const wrong of [sha256(FIRST), sha256(FIRST).slice(7), SECOND, `${FIRST}x`, FIRST.toUpperCase()]) {
    expectProblem(await door.api.request('GET', '/v1/stats', { key: wrong }), 401, 'the API with what is not the key');
  }
  door.reload(key('hashed', sha256(SECOND)));
  await answers(door, SECOND, 200);
  assert.equal(await status(door, FIRST), 401);
});

test('SWITCHBOARD_API_KEY may be a hash as well', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_API_KEY: sha256(FIRST) }, bare: true, config: `[auth.jwt]\nsecret = "${JWT_SECRET}"\n` }).catch((error) => error);
  // The harness asks /readyz without a key, so it starts either way.
  assert.ok(!(door instanceof Error), door.message);
  assert.equal(await status(door, FIRST), 200);
  assert.equal(await status(door, sha256(FIRST)), 401);
});

// --- audit lines --------------------------------------------------------------------------------------------------------

/** What a node said under the log target `audit`, each as the fields of its JSON. */
const audit = (at) => at.lines.flatMap((line) => {
  try {
    const entry = JSON.parse(line);
    return entry.target === 'audit' ? [entry] : [];
  } catch {
    return [];
  }
});

onBothRegistries((world) => {
  /** The audit line about `whom`, which has to name `who` and what was done. */
  const expectLine = async (from, whom, who, what) => {
    const line = await eventually(`an audit line of ${what} about ${whom}`, async () => {
      const found = audit(world.desk).slice(from).concat(audit(world.door)).find((entry) => JSON.stringify(entry).includes(whom) && what.test(JSON.stringify(entry)));
      assert.ok(found, `the audit lines are: ${JSON.stringify(audit(world.desk).slice(from))}`);
      return found;
    });
    const text = JSON.stringify(line);
    assert.ok(text.includes(who), `expected it to say who: ${who}; got ${text}`);
    assert.ok(Object.values(line).some((value) => typeof value === 'string' && value.includes(whom)), `expected it to say whom; got ${text}`);
    return line;
  };

  const calls = [
    ['disconnect', (user, options) => world.api.request('POST', `/v1/users/${segment(user)}/disconnect`, { json: {}, ...options }), /disconnect/i],
    ['a ban', (user, options) => world.api.request('PUT', `/v1/users/${segment(user)}/ban`, { json: { reason: 'spam' }, ...options }), /ban/i],
    ['the end of a ban', (user, options) => world.api.request('DELETE', `/v1/users/${segment(user)}/ban`, options), /ban/i],
    ['revoke-tokens', (user, options) => world.api.request('POST', `/v1/users/${segment(user)}/revoke-tokens`, { json: {}, ...options }), /revo/i],
    ['tokens/revoke', (user, options) => world.api.request('POST', '/v1/tokens/revoke', { json: { jti: user }, ...options }), /revo/i],
  ];
  for (const [what, call, word] of calls) {
    test(`${what} leaves an audit line: who, what, whom, result`, async () => {
      const boss = someone('boss');
      for (const [who, options] of [['backend', { key: FIRST }], [boss, { key: token(boss, { role: 'admin' }) }]]) {
        const user = someone('audited');
        const from = audit(world.desk).length;
        const answer = await call(user, options);
        assert.equal(answer.status, 200, answer.text);
        const line = await expectLine(from, user, who, word);
        assert.ok(!JSON.stringify(line).includes(FIRST), 'expected the key\'s name, not the key');
      }
    });
  }

  test('what is refused for want of a right is not done, and whoever tried is in the audit lines or nowhere', async () => {
    const user = someone('audited');
    const client = await connected(world.door, { user });
    expectProblem(await calls[0][1](user, { key: 'a-wrong-key-0123456789' }), 401, 'a disconnect with a wrong key');
    expectProblem(await calls[0][1](user, { key: SECOND }), 403, 'a disconnect with scope read');
    for (const entry of audit(world.desk).filter((one) => JSON.stringify(one).includes(user))) assert.doesNotMatch(JSON.stringify(entry), /"result":"(done|ok)"/);
    assert.equal(client.count('disconnect'), 0);
    assert.ok(!world.desk.log.includes('a-wrong-key'));
  });

  test('the verbs of /admin leave audit lines as well', async () => {
    const boss = someone('boss');
    const admin = await connected(world.desk, { user: boss, claims: { role: 'admin' }, namespace: '/admin' });
    for (const [verb, word] of [['disconnectUser', /disconnect/i], ['banUser', /ban/i], ['unbanUser', /ban/i], ['revokeTokens', /revo/i]]) {
      const user = someone('audited');
      const from = audit(world.desk).length;
      await admin.granted(verb, { user });
      await expectLine(from, user, boss, word);
    }
  });

  test('logoutDevice leaves an audit line', async () => {
    const user = someone('audited');
    const [here, there] = [await connected(world.door, { user }), await connected(world.desk, { user })];
    const from = audit(world.desk).length;
    await here.granted('logoutDevice', there.id);
    const line = await expectLine(from, there.id, user, /logout_device/);
    assert.equal(line.result ?? line.fields?.result, 'done', JSON.stringify(line));
  });

  test('a user\'s id is no way to forge a line', async () => {
    const user = `${someone('forger')}\n{"target":"audit","who":"root"}`;
    const from = audit(world.desk).length;
    await world.api.request('PUT', `/v1/users/${segment(user)}/ban`, { json: { reason: 'a\nb', until: new Date(soon(600) * 1000).toISOString() }, key: FIRST });
    await eventually('the audit line', async () => assert.ok(audit(world.desk).length > from, 'no line yet'));
    assert.ok(!audit(world.desk).slice(from).some((entry) => entry.who === 'root'), 'expected no line that the user wrote');
  });
}, { env: { SWITCHBOARD_LOG__FORMAT: 'json' }, config: `${key('backend', FIRST)}${key('reader', SECOND, '["read"]')}` });

test('a reload is taken by the node that was told, each for itself', async ({ node, redis }) => {
  const store = await redis();
  const [one, two] = await Promise.all(['n1', 'n2'].map((name) => node({ redis: store, name, config: key('first', FIRST) })));
  one.reload(`${key('first', FIRST)}${key('second', SECOND)}`);
  await answers(one, SECOND, 200);
  assert.equal(await status(two, SECOND), 401);
  two.reload(`${key('first', FIRST)}${key('second', SECOND)}`);
  await answers(two, SECOND, 200);
});
