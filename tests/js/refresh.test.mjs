// Contract 6: tokens refreshed over HTTP, with a cookie that is good once.

import assert from 'node:assert/strict';
import { createHash, createHmac, generateKeyPairSync } from 'node:crypto';
import net from 'node:net';
import jwt from 'jsonwebtoken';
import { API_KEY, clockPasses, connect, connected, eventually, exchange, expectProblem, Jar, JWT_SECRET, onBothRegistries, parseMetrics, someone, test, writeScratch } from './harness.mjs';

const REFRESH = '/api/refresh-token';
const LOGOUT = '/api/logout';
const FRIEND = 'https://app.example';
const EVIL = 'https://evil.example';

/** A user's browser after a login: the session is open, and the cookie is in the jar. */
async function login(api, user, body) {
  const opened = await api.openSession(user, body);
  return { opened, jar: new Jar().keep(opened.cookie) };
}

const cookieOf = (jar) => jar.cookies.get('refreshToken');

/** HSET of bytes. */
function hset(store, ...words) {
  const parts = ['HSET', ...words].map((word) => Buffer.from(word));
  const request = Buffer.concat([Buffer.from(`*${parts.length}\r\n`), ...parts.flatMap((part) => [Buffer.from(`$${part.length}\r\n`), part, Buffer.from('\r\n')])]);
  return new Promise((resolve, reject) => {
    net.connect(store.port, '127.0.0.1', function connected() { this.end(request); }).on('error', reject).on('end', resolve).resume();
  });
}

/** The key of a session's family in Redis. */
async function familyKey(store, { opened }) {
  const found = await store.command('KEYS', `*family:${opened.refreshToken.split('.')[0]}`);
  const keys = found.split('\r\n').filter((line) => line.includes('family:'));
  assert.equal(keys.length, 1, `expected one family, got ${found}`);
  return keys[0];
}

/** Keeps a session's family as Redis has it now; resolves to what undoes every write since, as a failover may. */
async function undo(store, session) {
  const key = await familyKey(store, session);
  const copy = async (from, to) => assert.equal(await store.command('COPY', from, to, 'REPLACE'), ':1\r\n');
  await copy(key, `kept of ${key}`);
  return () => copy(`kept of ${key}`, key);
}

/** A refresh token as nodes issued them before tokens had numbers: 16 bytes and a tag. */
function unnumbered(family, nonce) {
  const hmac = (key, ...parts) => parts.reduce((mac, part) => mac.update(part), createHmac('sha256', key)).digest();
  const key = hmac(JWT_SECRET, 'switchboard refresh-token successor v1');
  return `${family}.${Buffer.concat([nonce, hmac(key, family, '\0', nonce).subarray(0, 16)]).toString('base64url')}`;
}

/** A refresh that has to be granted; resolves to its token. */
async function refreshed(jar, at) {
  const answer = await jar.post(at.url, REFRESH);
  assert.equal(answer.status, 200, `expected a token from ${at.name}, got ${answer.status}: ${answer.text}`);
  return answer.json.token;
}

/** A refresh that has to be refused. */
async function refusedRefresh(jar, at, what) {
  const answer = await jar.post(at.url, REFRESH);
  expectProblem(answer, 401, `a refresh with ${what}`);
  assert.ok(!/eyJ/.test(answer.text), 'expected no token in a refusal');
}

onBothRegistries((world) => {
  test('a session: a token that is let in, and a cookie that no script and no foreign page can use', async () => {
    const user = someone('opened');
    const { opened, jar } = await login(world.api, user, { username: 'Ada', role: 'editor' });
    assert.deepEqual(Object.keys(opened).sort(), ['cookie', 'expiresAt', 'refreshToken', 'token']);
    const claims = jwt.verify(opened.token, JWT_SECRET);
    assert.equal(claims.sub, user);
    assert.equal(Date.parse(opened.expiresAt), claims.exp * 1000);
    assert.match(opened.cookie, /^refreshToken=[^;]+;/);
    for (const attribute of [/;\s*HttpOnly\b/i, /;\s*SameSite=Lax\b/i, /;\s*Path=\/(api)?\b/i, /;\s*(Max-Age|Expires)=/i]) assert.match(opened.cookie, attribute);
    assert.equal(decodeURIComponent(cookieOf(jar)), opened.refreshToken);
    assert.ok(opened.refreshToken.length >= 22, `expected a refresh token that can't be guessed, got one of ${opened.refreshToken.length} characters`);
    const client = connect(world.door, { token: opened.token });
    const ready = await client.ready();
    assert.deepEqual([ready.userId, ready.username, ready.role], [user, 'Ada', 'editor']);
  });

  test('refresh: the next token and the next cookie, on whichever node', async () => {
    const user = someone('refresh');
    const { opened, jar } = await login(world.api, user, { username: 'Ada', role: 'editor' });
    const cookies = new Set([cookieOf(jar)]);
    for (let i = 1; i <= 5; i += 1) {
      const at = i % 2 ? world.door : world.desk;
      const answer = await jar.post(at.url, REFRESH);
      assert.equal(answer.status, 200, answer.text);
      assert.deepEqual(Object.keys(answer.json).sort(), ['expiresAt', 'token'], 'expected the refresh token nowhere but in the cookie');
      const claims = jwt.verify(answer.json.token, JWT_SECRET);
      assert.deepEqual([claims.sub, claims.username], [user, 'Ada']);
      assert.equal(Date.parse(answer.json.expiresAt), claims.exp * 1000);
      for (const attribute of [/;\s*HttpOnly\b/i, /;\s*SameSite=Lax\b/i]) assert.match(jar.lines.get('refreshToken'), attribute);
      assert.match(answer.headers['cache-control'] ?? '', /no-store/, 'expected nobody to keep a copy of the answer');
      assert.equal(cookies.size, i, 'expected another cookie each time');
      cookies.add(cookieOf(jar));
      assert.equal((await connect(world.door, { token: answer.json.token }).ready()).role, 'editor');
    }
    assert.ok(!cookies.has(opened.token));
  });

  test('refresh without the cookie, or with another one, is 401', async () => {
    await refusedRefresh(new Jar(), world.door, 'no cookie');
    const { opened } = await login(world.api, someone('owner'));
    const value = opened.refreshToken;
    const garbage = ['x', value.slice(0, -1), `${value}x`, value.toUpperCase() === value ? value.toLowerCase() : value.toUpperCase(), '%00', '%zz', '..', '*', 'x'.repeat(4000), opened.token];
    for (const text of garbage) await refusedRefresh(new Jar().keep(`refreshToken=${text}; Path=/`), world.door, `the cookie ${text.slice(0, 40)}`);
    for (const headers of [{ authorization: `Bearer ${value}` }, { authorization: `Bearer ${opened.token}` }, { 'x-refresh-token': value }]) {
      expectProblem(await exchange(world.door.url, 'POST', REFRESH, { headers: { 'content-length': 0, ...headers } }), 401, 'a refresh with a header in place of the cookie');
    }
    expectProblem(await exchange(world.door.url, 'POST', `${REFRESH}?refreshToken=${encodeURIComponent(value)}`, { headers: { 'content-length': 0 } }), 401, 'a refresh with a token in the query');
    const got = await exchange(world.door.url, 'GET', REFRESH, { headers: { cookie: `refreshToken=${value}` } });
    assert.equal(got.status, 405, `expected GET not to refresh, got ${got.status}`);
    // None of these has used it up.
    await refreshed(new Jar().keep(opened.cookie), world.door);
  });

  test('who has seen an access token can\'t end its session with a made-up cookie', async () => {
    const user = someone('seen');
    const { opened, jar } = await login(world.api, user);
    const client = connect(world.door, { token: opened.token });
    await client.ready();
    const { sid } = jwt.decode(opened.token);
    assert.equal(opened.refreshToken.split('.')[0], sid);
    const madeUp = () => new Jar().keep(`refreshToken=${sid}.${'A'.repeat(43)}; Path=/`);
    await refusedRefresh(madeUp(), world.desk, 'a cookie that was made up');
    await refreshed(jar, world.door);
    await refusedRefresh(madeUp(), world.desk, 'a cookie that was made up');
    await refreshed(jar, world.desk);
    assert.equal(client.count('disconnect'), 0, client.history());
  });

  test('a cookie that comes back two generations later kills its family', async () => {
    const user = someone('stolen');
    const { jar } = await login(world.api, user);
    const thief = jar.copy();
    await refreshed(jar, world.door);
    const second = jar.copy();
    await refreshed(jar, world.desk);
    const other = await login(world.api, user);
    await refusedRefresh(thief, world.desk, 'a cookie whose successor has been used');
    await refusedRefresh(jar, world.door, 'the newest cookie of a family that is dead');
    await refusedRefresh(second, world.door, 'an older cookie of a family that is dead');
    await refreshed(other.jar, world.door);
  });

  test('two tabs that refresh at once with one cookie both get a token, and the same next cookie', async () => {
    for (let round = 0; round < 10; round += 1) {
      const { jar } = await login(world.api, someone('tabs'));
      const tabs = Array.from({ length: 4 }, () => jar.copy());
      await Promise.all(tabs.map((tab, i) => refreshed(tab, i % 2 ? world.door : world.desk)));
      assert.equal(new Set(tabs.map(cookieOf)).size, 1, 'expected one successor for all tabs');
      assert.notEqual(cookieOf(tabs[0]), cookieOf(jar));
      await refreshed(tabs[0], world.door);
      await refreshed(tabs[0], world.desk);
    }
  });

  test('a tab that is a moment late gets the same successor; that is not taken for theft', async () => {
    const { jar } = await login(world.api, someone('late'));
    const late = jar.copy();
    await refreshed(jar, world.door);
    await refreshed(late, world.desk);
    assert.equal(cookieOf(late), cookieOf(jar));
    await refreshed(late, world.door);
  });

  test('logout ends the family and its connections, and no others', async () => {
    const user = someone('logout');
    const [here, elsewhere] = [await login(world.api, user), await login(world.api, user)];
    const first = await connected(world.door, { token: here.opened.token });
    const second = await connected(world.desk, { token: await refreshed(here.jar, world.door) });
    const stays = await connected(world.door, { token: elsewhere.opened.token });
    const old = here.jar.copy();
    const answer = await here.jar.post(world.door.url, LOGOUT);
    assert.ok([200, 204].includes(answer.status), `expected 200 or 204 to a logout, got ${answer.status}: ${answer.text}`);
    for (const client of [first, second]) await client.kicked(4503, 'Session ended');
    assert.deepEqual((await world.api.user(user)).connections.map((one) => one.id), [stays.id]);
    assert.equal(cookieOf(here.jar), undefined, 'expected the browser to be told to forget the cookie');
    await refusedRefresh(old, world.desk, 'the cookie of a session that was logged out');
    await connect(world.desk, { token: here.opened.token }).refused('Token revoked');
    await refreshed(elsewhere.jar, world.door);
    assert.equal(stays.count('disconnect'), 0, stays.history());
  });

  test('logout without a session is no way to learn anything', async () => {
    for (const jar of [new Jar(), new Jar().keep('refreshToken=unknown; Path=/')]) {
      const { status } = await jar.post(world.door.url, LOGOUT);
      assert.ok([200, 204, 401].includes(status), `expected 200, 204 or 401, got ${status}`);
    }
  });

  test('a connection that was renewed with a token of the family ends with it too', async () => {
    const user = someone('renewed');
    const { opened, jar } = await login(world.api, user);
    const client = await connected(world.door, { token: opened.token });
    await client.granted('refreshToken', await refreshed(jar, world.desk));
    await jar.post(world.desk.url, LOGOUT);
    await client.kicked(4503, 'Session ended');
  });

  test('a banned user, and one whose tokens were revoked, does not get in by a refresh', async () => {
    const user = someone('banned');
    const { jar } = await login(world.api, user);
    await world.api.ban(user);
    const answer = await jar.copy().post(world.door.url, REFRESH);
    if (answer.status === 200) await connect(world.door, { token: answer.json.token }).refused('User banned');
    else expectProblem(answer, [401, 403], 'a refresh of a banned user');
    await world.api.unban(user);
  });

  test('sessions are opened with scope admin', async () => {
    const path = `/v1/users/${someone('guarded')}/sessions`;
    expectProblem(await world.api.request('POST', path, { json: {}, key: 'a-wrong-key-0123456789' }), 401, 'a session with a wrong key');
    expectProblem(await world.api.request('POST', path, { json: {}, key: 'read-key-of-the-tests-0123456789' }), 403, 'a session with scope read');
    expectProblem(await world.api.request('POST', path, { json: [] }), [400, 422], 'a session with a malformed body');
  });

  test('origins: pages of one\'s own and the allowed ones', async () => {
    const { jar } = await login(world.api, someone('origin'));
    for (const path of [REFRESH, LOGOUT]) {
      const answer = await jar.copy().post(world.door.url, path, { headers: { origin: EVIL } });
      assert.equal(answer.status, 403, `expected 403 to ${path} with the cookie from a foreign origin, got ${answer.status}: ${answer.text}`);
      assert.equal(answer.headers['access-control-allow-origin'], undefined);
    }
    const preflight = await exchange(world.door.url, 'OPTIONS', REFRESH, { headers: { origin: FRIEND, 'access-control-request-method': 'POST' } });
    assert.ok(preflight.status >= 200 && preflight.status < 300, `expected the preflight of an allowed origin to pass, got ${preflight.status}`);
    assert.deepEqual([preflight.headers['access-control-allow-origin'], preflight.headers['access-control-allow-credentials']], [FRIEND, 'true']);
    const answer = await jar.post(world.door.url, REFRESH, { headers: { origin: FRIEND } });
    assert.deepEqual([answer.status, answer.headers['access-control-allow-origin'], answer.headers['access-control-allow-credentials']], [200, FRIEND, 'true'],
      'expected a page of an allowed origin to be served with credentials, as fetch with credentials: "include" needs it');
    assert.equal((await jar.post(world.door.url, REFRESH, { headers: { origin: world.door.url } })).status, 200);
  });

  test('refresh tokens are nowhere in the clear: not in Redis, not in a log, not in the metrics', async () => {
    const user = someone('hidden');
    const secrets = new Set();
    const { opened, jar } = await login(world.api, user);
    secrets.add(opened.refreshToken);
    for (let i = 0; i < 3; i += 1) {
      await refreshed(jar, i % 2 ? world.door : world.desk);
      secrets.add(decodeURIComponent(cookieOf(jar)));
    }
    assert.equal(secrets.size, 4);
    const thief = new Jar().keep(opened.cookie);
    await refusedRefresh(thief, world.door, 'a cookie used twice');
    const held = world.redis ? await world.redis.everything() : '';
    if (world.redis) assert.ok(held.includes(user), 'expected this look into Redis to find the session');
    for (const secret of secrets) {
      const parts = secret.split('.');
      const longest = parts.reduce((one, two) => (two.length > one.length ? two : one));
      for (const text of [secret, longest]) {
        assert.ok(!held.includes(text), 'expected Redis to hold no refresh token in clear');
        for (const at of new Set([world.door, world.desk])) {
          assert.ok(!at.log.includes(text), `expected the log of ${at.name} to hold no refresh token`);
          assert.ok(!(await at.api.request('GET', '/metrics')).text.includes(text));
        }
      }
    }
  });
}, { env: { SWITCHBOARD_CORS__ALLOWED_ORIGINS: FRIEND }, config: '[[api.keys]]\nname = "reader"\nkey = "read-key-of-the-tests-0123456789"\nscopes = ["read"]\n' });

test('auth.refresh_ttl: a session that is not refreshed ends; each refresh prolongs it', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_AUTH__REFRESH_TTL: '2s' } });
  const [{ jar: left }, { jar: used }] = [await login(door.api, someone('left')), await login(door.api, someone('used'))];
  const opened = Date.now();
  while (Date.now() < opened + 3500) {
    await refreshed(used, door);
    await clockPasses(Date.now() + 500);
  }
  await refusedRefresh(left, door, 'a cookie that nobody used in time');
  await refreshed(used, door);
});

test('families outlive the restart of every node; what was ended stays ended', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const first = await Promise.all(['n1', 'n2'].map((name) => node({ redis: store, name })));
  const user = someone('restart');
  const [kept, ended, stolen] = await Promise.all([1, 2, 3].map(() => login(first[0].api, user)));
  await refreshed(kept.jar, first[1]);
  const endedCopy = ended.jar.copy();
  await ended.jar.post(first[0].url, LOGOUT);
  const thief = stolen.jar.copy();
  await refreshed(stolen.jar, first[0]);
  await refreshed(stolen.jar, first[0]);
  for (const at of first) await at.kill();

  const second = await Promise.all(['n3', 'n4'].map((name) => node({ redis: store, name })));
  assert.equal(jwt.decode(await refreshed(kept.jar, second[0])).sub, user);
  await refusedRefresh(endedCopy, second[1], 'the cookie of a session that was logged out before the restart');
  await refusedRefresh(thief, second[0], 'a cookie used twice, over a restart');
  await refusedRefresh(stolen.jar, second[1], 'the newest cookie of a family that is dead');
  const client = await connected(second[0], { token: kept.opened.token });
  await kept.jar.post(second[1].url, LOGOUT);
  await client.kicked(4503);
});

test('a Redis that has lost the last refreshes takes nobody for a thief', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const [door, desk] = await Promise.all(['n1', 'n2'].map((name) => node({ redis: store, name })));
  for (const lost of [1, 3]) {
    const user = someone(`lost${lost}`);
    const session = await login(door.api, user);
    const { jar } = session;
    await refreshed(jar, door);
    const thief = jar.copy();
    const client = await connected(desk, { token: await refreshed(jar, desk) });
    const lose = await undo(store, session);
    for (let i = 0; i < lost; i += 1) await refreshed(jar, door);
    await lose();
    // Two tabs, and then as ever.
    const tab = jar.copy();
    await Promise.all([refreshed(jar, door), refreshed(tab, desk)]);
    assert.equal(cookieOf(jar), cookieOf(tab));
    await connected(desk, { token: await refreshed(jar, desk) });
    assert.equal(client.count('disconnect'), 0, client.history());
    const line = () => [door, desk].some((at) => at.log.split('\n').some((text) => text.includes('has lost writes') && text.includes(user)));
    await eventually('a node says that Redis has lost something', async () => assert.ok(line()));
    await refusedRefresh(thief, desk, 'a cookie that was used before the loss');
    await client.kicked(4503);
    await refusedRefresh(jar, door, 'the newest cookie of a family that is dead');
  }
});

test('after such a loss the newest cookie logs out, and one that is made to look newer does nothing', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const door = await node({ redis: store });
  const session = await login(door.api, someone('out'));
  const { jar } = session;
  const lose = await undo(store, session);
  const client = await connected(door, { token: await refreshed(jar, door) });
  await lose();
  const [family, secret] = session.opened.refreshToken.split('.');
  const bytes = Buffer.from(secret, 'base64url');
  bytes.writeUInt32BE(bytes.readUInt32BE(0) + 7, 0);
  const newer = () => new Jar().keep(`refreshToken=${family}.${bytes.toString('base64url')}; Path=/`);
  await refusedRefresh(newer(), door, 'a cookie whose number somebody has raised');
  assert.equal((await newer().post(door.url, LOGOUT)).status, 204);
  assert.equal(client.count('disconnect'), 0, client.history());
  assert.equal((await jar.copy().post(door.url, LOGOUT)).status, 204);
  await client.kicked(4503);
  await refusedRefresh(jar, door, 'the cookie of a session that was logged out');
});

test('a session from before refresh tokens had numbers goes on', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const door = await node({ redis: store });
  const session = await login(door.api, someone('upgraded'));
  const key = await familyKey(store, session);
  const family = session.opened.refreshToken.split('.')[0];
  const [before, current] = [1, 2].map((byte) => unnumbered(family, Buffer.alloc(16, byte)));
  await store.command('HDEL', key, 'number');
  await hset(store, key, 'current', createHash('sha256').update(current).digest());
  const browser = (token) => new Jar().keep(`refreshToken=${token}; Path=/`);
  const jar = browser(current);
  await refreshed(jar, door);
  await refreshed(browser(current), door);
  await refreshed(jar, door);
  await refusedRefresh(browser(before), door, 'a cookie from before that was used');
  await refusedRefresh(jar, door, 'the newest cookie of a family that is dead');
});

test('without a signing key: 404', async ({ node }) => {
  const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const file = writeScratch('pem', publicKey.export({ type: 'spki', format: 'pem' }));
  const door = await node({ bare: true, env: { SWITCHBOARD_API_KEY: API_KEY, SWITCHBOARD_AUTH__JWT__PUBLIC_KEY_FILE: file } });
  const user = someone('verified');
  await connected(door, { token: jwt.sign({ sub: user }, privateKey, { algorithm: 'RS256', expiresIn: 600 }) });
  for (const path of [REFRESH, LOGOUT]) {
    const { status } = await new Jar().keep('refreshToken=x; Path=/').post(door.url, path);
    assert.equal(status, 404, `expected 404 to ${path} where there is no signing key, got ${status}`);
  }
  const answer = await door.api.request('POST', `/v1/users/${user}/sessions`, { json: {}, key: API_KEY });
  assert.equal(answer.status, 404, `expected 404 to a session where there is no signing key, got ${answer.status}: ${answer.text}`);
});

test('with --internal-listen browsers still reach /api, and nobody outside opens sessions', async ({ node }) => {
  const door = await node({ internal: true });
  const { jar } = await login(door.api, someone('inside'));
  await refreshed(jar, door);
  const outside = await exchange(door.url, 'POST', '/v1/users/x/sessions', { headers: { authorization: `Bearer ${API_KEY}`, 'content-length': 0 } });
  assert.equal(outside.status, 404, `expected /v1 not to be on the public listener, got ${outside.status}`);
});

test('who writes to Redis makes no user and no role of a session', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const door = await node({ redis: store });
  const sessions = {};
  for (const name of ['mallory', 'copycat', 'forger', 'admin', 'honest']) {
    const { opened, jar } = await login(door.api, name, { role: name === 'admin' ? 'admin' : 'user' });
    const id = opened.refreshToken.split('.')[0];
    const [, key] = (await store.command('KEYS', `*family:${id}`)).split('\r\n').filter((line) => line && !line.startsWith('*'));
    sessions[name] = { id, jar, key };
  }
  const { mallory, copycat, forger, admin, honest } = sessions;
  const field = async ({ key }, name) => (await store.command('HGET', key, name)).split('\r\n')[1];
  await store.command('HSET', mallory.key, 'user', 'admin', 'claims', JSON.stringify({ username: null, roles: ['admin'], extra: {} }));
  await refusedRefresh(mallory.jar, door, 'claims that somebody has written');
  const sealed = JSON.parse(await field(forger, 'claims'));
  await store.command('HSET', forger.key, 'claims', JSON.stringify({ ...sealed, claims: sealed.claims.replace('user', 'admin') }));
  await refusedRefresh(forger.jar, door, 'a role that somebody has written');
  await store.command('HSET', copycat.key, 'user', 'admin', 'claims', await field(admin, 'claims'));
  await refusedRefresh(copycat.jar, door, 'user and claims of another session');
  const page = async () => (await door.api.request('GET', '/metrics')).text;
  assert.match(await page(), /^switchboard_registry_unreadable_total\{what="family"\} 3$/m);

  // A token that nobody has issued, made the current one by its hash.
  const made = `${admin.id}.${'A'.repeat(43)}`;
  const hash = createHash('sha256').update(made).digest();
  await hset(store, admin.key, 'current', hash);
  await refusedRefresh(new Jar().keep(`refreshToken=${made}`), door, 'a token that nobody has issued');
  assert.equal(jwt.verify(await refreshed(honest.jar, door), JWT_SECRET).role, 'user');
});

test('sessions outlive the secret that they were opened with', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const next = 'the-secret-after-the-present-one-0123456789';
  const door = await node({ redis: store });
  const { jar } = await login(door.api, 'rotated', { username: 'Ada', role: 'editor' });
  const late = await login(door.api, 'late');
  await refreshed(jar, door);
  const both = await node({ redis: store, env: { SWITCHBOARD_JWT_SECRET: next, SWITCHBOARD_AUTH__JWT__PREVIOUS_SECRETS: JWT_SECRET } });
  await refreshed(jar, both);
  const after = await node({ redis: store, env: { SWITCHBOARD_JWT_SECRET: next } });
  const claims = jwt.verify(await refreshed(jar, after), next);
  assert.deepEqual([claims.sub, claims.username, claims.role], ['rotated', 'Ada', 'editor']);
  await refusedRefresh(late.jar, after, 'a token by a secret that is gone');
});

test('while Redis is away: 503, and the cookie is good afterwards', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const door = await node({ redis: store });
  const { jar } = await login(door.api, someone('outage'));
  store.server.signal('SIGSTOP');
  try {
    const answer = await jar.copy().post(door.url, REFRESH);
    expectProblem(answer, 503, 'a refresh while Redis hangs');
    assert.equal(answer.headers['set-cookie'], undefined, 'expected the cookie to be left alone');
  } finally {
    store.server.signal('SIGCONT');
  }
  await eventually('the same cookie is good when Redis goes on', async () => assert.equal((await jar.copy().post(door.url, REFRESH)).status, 200), { ms: 20000 });
});

test('a refresh token that was made up costs Redis nothing: its tag shows it', async ({ node, redis }) => {
  const store = await redis();
  const door = await node({ redis: store });
  const { opened, jar } = await login(door.api, someone('seen'));
  const { sid } = jwt.decode(opened.token);
  const value = opened.refreshToken;
  const forged = [`${sid}.${'A'.repeat(43)}`, `${value.slice(0, -2)}${value.endsWith('AA') ? 'BA' : 'AA'}`, `x${value}`];
  const calls = async () => {
    const metrics = parseMetrics((await door.api.request('GET', '/metrics')).text);
    return ['rotate', 'close_family'].map((operation) => metrics.value('switchboard_registry_duration_seconds_count', { operation }));
  };
  const before = await calls();
  for (const text of forged) {
    const made = () => new Jar().keep(`refreshToken=${text}; Path=/`);
    await refusedRefresh(made(), door, 'a cookie that was made up');
    assert.equal((await made().post(door.url, LOGOUT)).status, 204);
  }
  assert.deepEqual(await calls(), before);
  await refreshed(jar, door);
  assert.equal((await jar.post(door.url, LOGOUT)).status, 204);
  assert.deepEqual(await calls(), before.map((count) => count + 1));
  await store.stop();
  await refusedRefresh(new Jar().keep(`refreshToken=${forged[0]}; Path=/`), door, 'a cookie that was made up, with Redis away');
});
