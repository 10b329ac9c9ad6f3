// Contract 2: hostile tokens through the door, each refused in the contract's words; and nothing of any secret in the logs.

import assert from 'node:assert/strict';
import { createHash, createHmac, generateKeyPairSync, sign as signWith } from 'node:crypto';
import { readFileSync } from 'node:fs';
import jwt from 'jsonwebtoken';
import { API_KEY, connect, connected, eventually, exchange, Jar, JWT_SECRET, Polling, RawSocket, someone, soon, test, token, writeScratch } from './harness.mjs';
import { SESSION_SECRET, startExpress } from './support/express.mjs';

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
const thief = generateKeyPairSync('rsa', { modulusLength: 2048 });
const PEM = rsa.publicKey.export({ type: 'spki', format: 'pem' });
const USER = 'the-user-of-a-hostile-token';

const part = (value) => Buffer.from(typeof value === 'string' || Buffer.isBuffer(value) ? value : JSON.stringify(value)).toString('base64url');
const hmac = (text, secret = JWT_SECRET, hash = 'sha256') => createHmac(hash, secret).update(text).digest('base64url');
const claims = (more = {}) => ({ sub: USER, iat: soon(0), exp: soon(600), role: 'admin', ...more });
/** A token with this header and payload, signed as HS256 whatever the header says. */
const signed = (header, payload = claims(), secret = JWT_SECRET) => {
  const text = `${part(header)}.${part(payload)}`;
  return `${text}.${hmac(text, secret)}`;
};
const HEADER = { alg: 'HS256', typ: 'JWT' };
const saying = (more) => signed(HEADER, claims(more));
const good = () => signed(HEADER);
const parts = () => good().split('.');
/** The same bytes in a base64 that no encoder writes: with bits set that belong to no byte. */
const loose = (text) => {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  return text.slice(0, -1) + alphabet[alphabet.indexOf(text.at(-1)) ^ 1];
};
/** Signed with RS256 by the key of the node's PEM file. */
const byRsa = (header, payload = claims()) => {
  const text = `${part(header)}.${part(payload)}`;
  return `${text}.${signWith('sha256', Buffer.from(text), rsa.privateKey).toString('base64url')}`;
};

const INVALID = 'Invalid token';
const EXPIRED = 'Invalid or expired token';

/** Makes the token of a row of hostile-tokens.json: src/auth/hostile_tokens/table.rs says what its fields mean. */
function make(row) {
  const merged = claims();
  for (const [name, value] of Object.entries(row.claims ?? {})) {
    if (value?.absent) delete merged[name];
    else merged[name] = Number.isFinite(value?.now) ? soon(value.now) : value;
  }
  let payload = merged;
  if (row.payload !== undefined) payload = row.payload.replaceAll('@', JSON.stringify(claims()).slice(1, -1));
  else if (row.payloadHex) payload = Buffer.from(row.payloadHex, 'hex');
  const [header, body, signature] = signed(row.header ?? HEADER, payload, row.secret).split('.');
  return (row.token ?? '{header}.{payload}.{signature}').replaceAll('{header}', header).replaceAll('{payload}', body).replaceAll('{signature}', row.signature ?? signature);
}

const table = JSON.parse(readFileSync(new URL('../../src/auth/testdata/hostile-tokens.json', import.meta.url), 'utf8'));
const hostile = [
  ...table.map((row) => [row.what, () => make(row), row.expected === 'expired' ? EXPIRED : INVALID]),
  // parts of a good one
  ['a signature cut short', () => good().slice(0, -1)],
  ['a signature cut by half', () => good().slice(0, -20)],
  ['a signature with loose bits', () => loose(good())],
  ['a signature in the other alphabet', () => {
    for (let i = 0; ; i += 1) {
      const [header, payload, signature] = signed(HEADER, claims({ i })).split('.');
      if (/[-_]/.test(signature)) return `${header}.${payload}.${signature.replaceAll('-', '+').replaceAll('_', '/')}`;
    }
  }],
  ['the signature of another token', () => `${parts().slice(0, 2).join('.')}.${saying({ sub: 'x' }).split('.')[2]}`],
  ['another user put in', () => [parts()[0], part(claims({ sub: 'root' })), parts()[2]].join('.')],
  ['another header put in', () => [part({ ...HEADER, kid: 'x' }), ...parts().slice(1)].join('.')],
  // one key taken for another
  ['the public key as the secret', () => signed(HEADER, claims(), PEM)],
  ['the public key as the secret, without its last line break', () => signed(HEADER, claims(), PEM.trim())],
  ['the public key\'s DER as the secret', () => signed(HEADER, claims(), rsa.publicKey.export({ type: 'spki', format: 'der' }))],
  ['HS256 in the header and an RSA signature', () => byRsa(HEADER)],
  ['PS256 in the header and an RS256 signature', () => byRsa({ alg: 'PS256' })],
  ['RS256 by another key', () => jwt.sign(claims(), thief.privateKey, { algorithm: 'RS256' })],
  ['RS256 by another key that is in the header', () => jwt.sign(claims(), thief.privateKey, { algorithm: 'RS256', header: { jwk: thief.publicKey.export({ format: 'jwk' }) } })],
  ['a header that names keys elsewhere', () => jwt.sign(claims(), thief.privateKey, { algorithm: 'RS256', header: { jku: 'http://127.0.0.1:1/keys', x5u: 'http://127.0.0.1:1/x' } })],
  ['a minute past exp, by RS256', () => byRsa({ alg: 'RS256' }, claims({ exp: soon(-60) })), EXPIRED],
  // large ones
  ['a header of 40 KB', () => signed({ ...HEADER, x: 'x'.repeat(40_000) }).slice(0, -1)],
  ['a payload nested 10,000 deep', () => signed(HEADER, `{"sub":"${USER}","exp":${soon(600)},"x":${'['.repeat(10_000)}${']'.repeat(10_000)}}`)],
  ['a user of 30 KB', () => saying({ sub: 'u'.repeat(30_000) })],
  ['40 KB of it', () => `${part(HEADER)}.${'a'.repeat(40_000)}.b`],
  // no texts
  ['an object', () => ({ toString: good() })],
  ['a list', () => [good()]],
  ['true', () => true],
];

/** What of a text must not be in a log: itself, and each long part of it. A header is no secret. */
const telling = (text) => [text, ...text.split('.').slice(1)].filter((one) => one.length >= 16);

/** Holds the logs of nodes to having nothing of `secrets`, a list of [what, text]. */
function expectSilence(nodes, secrets) {
  for (const node of nodes) {
    for (const [what, text] of secrets) {
      const hit = node.lines.find((line) => line.includes(text));
      assert.equal(hit?.replaceAll(text, '<it>').slice(0, 300), undefined, `expected ${what} not to be in the log of ${node.name}`);
    }
  }
}

test(`${hostile.length} hostile tokens are refused in the contract's words and logged nowhere, at the finest level`, { ms: 120000 }, async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LOG__LEVEL: 'trace', SWITCHBOARD_AUTH__JWT__PUBLIC_KEY_FILE: writeScratch('pem', PEM) } });
  for (const given of [good(), byRsa({ alg: 'RS256' })]) assert.equal((await connect(door, { token: given }).ready()).userId, USER, 'expected the tokens that the hostile ones are made of to be good');
  const secrets = [];
  for (const [what, give, message = INVALID] of hostile) {
    const given = give();
    const text = typeof given === 'string' ? given : JSON.stringify(given);
    secrets.push(...telling(text).map((one) => [`the token with ${what}`, one.slice(0, 2000)]));
    await connect(door, { auth: { token: given }, label: what }).refused(message);
    await connect(door, { auth: { token: given }, namespace: '/admin', label: `${what}, in /admin` }).refused(message);
    const guest = connect(door, { auth: { token: given }, namespace: '/public', label: `${what}, in /public` });
    assert.equal((await guest.ready()).userId, null, `expected nobody to be known by a token with ${what}`);
    guest.socket.disconnect();
    // As a header as well, where a header can hold it.
    if (/^[\w.=+/-]{1,8000}$/.test(text)) {
      await connect(door, { auth: {}, extraHeaders: { authorization: `Bearer ${text}` }, label: `${what}, in the header` }).refused(message);
    }
  }
  await connected(door, { token: good() });
  assert.ok(door.lines.some((line) => /\b(TRACE|DEBUG)\b/.test(line)), 'expected the node to log at the finest level');
  expectSilence([door], secrets);
});

test('a whole run at the finest level: no secret, token, key or cookie in any log', { ms: 120000 }, async ({ node, redis, owned }) => {
  const store = await redis();
  const PASSWORD = 'the-redis-password-0123456789';
  await store.command('CONFIG', 'SET', 'requirepass', PASSWORD);
  const url = store.url.replace('//', `//default:${PASSWORD}@`);
  const HASHED = 'a-key-that-is-kept-hashed-0123456789';
  const keys = { reader: 'read-key-of-the-run-0123456789', previous: 'the-secret-before-of-the-run-0123456789', session: 'the-session-secret-of-the-run-0123456789' };
  const env = {
    SWITCHBOARD_LOG__LEVEL: 'trace',
    SWITCHBOARD_AUTH__JWT__LEEWAY: '0s',
    SWITCHBOARD_AUTH__JWT__PREVIOUS_SECRETS: keys.previous,
    SWITCHBOARD_AUTH__SESSION__SECRETS: `${SESSION_SECRET},${keys.session}`,
    SWITCHBOARD_AUTH__SESSION__RECHECK: '300ms',
    SWITCHBOARD_LIMITS__CONNECTIONS_PER_USER: '4',
  };
  const digest = createHash('sha256').update(HASHED).digest('hex');
  const config = `[[api.keys]]\nname = "reader"\nkey = "${keys.reader}"\nscopes = ["read"]\n\n[[api.keys]]\nname = "hashed"\nkey = "sha256:${digest}"\nscopes = ["read", "send", "disconnect", "admin"]\n`;
  const nodes = await Promise.all(['one', 'two'].map((name, i) => node({ redis: { url }, name, env: i ? { ...env, SWITCHBOARD_LOG__FORMAT: 'json' } : env, config })));
  const [one, two] = nodes;
  const secrets = [['the signing secret', JWT_SECRET], ['the previous secret', keys.previous], ['a session secret', SESSION_SECRET], ['a session secret', keys.session],
    ['the API key', API_KEY], ['another API key', keys.reader], ['a hashed API key', HASHED], ['an API key\'s digest', digest], ['the Redis password', PASSWORD]];
  const used = (what, text) => {
    secrets.push(...telling(text).map((part) => [what, part]));
    return text;
  };
  const app = await startExpress({ redis: { url } });
  owned(app.stop);

  // Tokens, every way they come in.
  const user = someone('run');
  const admin = used('an admin\'s token', token(someone('admin'), { role: 'admin' }));
  const first = await connected(one, { token: used('a token', token(user)) });
  await connected(two, { auth: {}, extraHeaders: { authorization: `Bearer ${used('a token in a header', token(user, { n: 1 }))}` }, transports: ['polling', 'websocket'] });
  await connect(one, { token: used('an expired token', token(user, { exp: soon(-60) })) }).refused(EXPIRED);
  await connect(one, { auth: {}, query: { token: used('a token in the query', token(user, { n: 2 })) } }).refused('Authentication token required');
  await connect(two, { token: used('what is no token', 'what-is-no-token-but-could-be-a-password') }).refused(INVALID);
  await first.granted('refreshToken', used('a token to refresh with', token(user, { n: 3 })));
  await first.denied([], 'refreshToken', used('a token of another', token('another')));
  const guest = connect(two, { auth: {}, namespace: '/public' });
  await guest.ready();
  await guest.granted('authenticate', used('a token to authenticate with', token(user, { n: 4 })));
  const short = await connected(one, { token: used('a token that ends', token(someone('short'), { exp: soon(2) })), reconnection: false });
  const old = new RawSocket(one.url);
  await old.connect({ token: used('a token from the previous secret', token(someone('old'), {}, { secret: keys.previous })) });
  const polling = await Polling.open(two.url, { headers: { cookie: `other=${used('another cookie', 'the-value-of-another-cookie-0123456789')}` } });
  await polling.connect({ token: used('a polling client\'s token', token(someone('polling'))) });
  secrets.push(['an Engine.IO session id', polling.sid], ['an Engine.IO session id', old.handshake.sid]);

  // Cookies.
  const browser = await app.browser().login({ userId: user });
  const value = browser.jar.cookies.get('connect.sid');
  secrets.push(['a session cookie', value], ['a session cookie, decoded', decodeURIComponent(value)], ['a session\'s id', browser.id], ['a cookie\'s signature', decodeURIComponent(value).split('.').at(-1)]);
  const viaCookie = await connected(one, { auth: {}, extraHeaders: { cookie: browser.cookie } });
  const forged = used('a forged cookie', `s%3A${browser.id}x.${'A'.repeat(43)}`);
  await connect(two, { auth: {}, extraHeaders: { cookie: `connect.sid=${forged}` } }).refused('Not authenticated');
  await exchange(one.url, 'GET', '/socket.io/?EIO=4&transport=polling', { headers: { cookie: browser.cookie, origin: 'https://evil.example' } });

  // The API, with good keys, bad ones, and bodies that are malformed.
  for (const key of [API_KEY, HASHED, keys.reader, admin, used('a wrong key', 'a-wrong-key-of-the-run-0123456789'), digest, `sha256:${digest}`]) {
    await one.api.request('GET', '/v1/stats', { key });
    await two.api.request('POST', `/v1/users/${user}/events`, { key, json: { event: 'x', data: used('what an event carries', 'the-content-of-a-message-0123456789') } });
  }
  await one.api.request('GET', `/v1/stats?key=${API_KEY}`, { key: null });
  await one.api.request('GET', '/metrics', { key: keys.reader });
  await two.api.request('POST', `/v1/users/${user}/events`, { body: `{"event":"x","data":"${used('a malformed body', 'a-malformed-body-of-the-run-0123456789')}` });

  // Sessions of one's own.
  const opened = await one.api.openSession(user);
  const jar = new Jar().keep(opened.cookie);
  used('a refresh token', opened.refreshToken);
  used('a session\'s token', opened.token);
  for (const at of [one, two]) {
    const answer = await jar.post(at.url, '/api/refresh-token');
    assert.equal(answer.status, 200, answer.text);
    used('a refreshed token', answer.json.token);
    used('a refresh token', decodeURIComponent(jar.cookies.get('refreshToken')));
  }
  await new Jar().keep(opened.cookie).post(one.url, '/api/refresh-token');
  await new Jar().keep(`refreshToken=${used('an unknown refresh token', 'an-unknown-refresh-token-0123456789')}; Path=/`).post(two.url, '/api/refresh-token');
  await jar.post(two.url, '/api/logout');

  // Ends of every kind.
  const chief = await connected(two, { token: admin, namespace: '/admin' });
  await chief.granted('getUser', { user });
  await short.sentAway(4001, 'Token expired');
  await browser.logout();
  await viaCookie.kicked(4503);
  await one.api.revokeToken('a-jti');
  await one.api.disconnect(user, { revokeTokens: true });
  await first.kicked(4500);
  await chief.granted('banUser', { user });
  await connect(one, { token: used('a banned user\'s token', token(user, { n: 5 })) }).refused('User banned');
  for (const at of nodes) {
    at.reload();
    await at.line(/reload|configuration/i);
    await eventually(`${at.name} is ready`, async () => (await at.api.request('GET', '/readyz')).status === 200, { ms: 20000 });
    at.signal('SIGTERM');
  }
  for (const at of nodes) assert.equal((await at.end()).code, 0);
  for (const at of nodes) assert.ok(at.lines.some((line) => /TRACE|DEBUG/.test(line)), `expected ${at.name} to log at the finest level`);
  expectSilence(nodes, secrets);
});
