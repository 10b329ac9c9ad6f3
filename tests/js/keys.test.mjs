// Contract 9, [[auth.jwt.keys]]: each key verifies what its own issuer says, and gives the roles that it may (RFC 8725 § 3.8).

import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import http from 'node:http';
import { API_KEY, connect, eventually, JWT_SECRET, runBinary, test, token, writeScratch } from './harness.mjs';

const OWN = 'https://own.example';
const PARTNER = 'https://partner.example';
const PARTNERS = 'the-secret-of-a-partner-that-is-long-enough-0123456789';
const own = `[auth.jwt]\nissuer = "${OWN}"\n\n`;
const entry = (lines) => `[[auth.jwt.keys]]\n${lines}\n\n`;
const partner = (more = '') => entry(`secret = "${PARTNERS}"\nissuer = "${PARTNER}"\n${more}`);
const by = (secret, iss, claims = {}) => token('1', { iss, ...claims }, { secret });

const outcome = (door, key, namespace = '/') => connect(door, { token: key, namespace }).outcome();

test("a partner's key can't speak for another issuer: not to sockets, not in refreshToken, not to the API", async ({ node }) => {
  const door = await node({ config: own + partner() });
  const client = connect(door, { token: by(PARTNERS, PARTNER) });
  assert.equal((await client.ready()).userId, '1');
  assert.equal(await outcome(door, by(JWT_SECRET, OWN)), 'ready');
  for (const [what, key] of [
    ['the partner as oneself', by(PARTNERS, OWN, { role: 'admin' })],
    ['the partner as nobody', by(PARTNERS, undefined, { role: 'admin' })],
    ['oneself as the partner', by(JWT_SECRET, PARTNER, { role: 'admin' })],
    ['the partner with two issuers', by(PARTNERS, [PARTNER, OWN], { role: 'admin' })],
  ]) {
    assert.equal(await outcome(door, key), 'Invalid token', what);
    assert.equal(await outcome(door, key, '/admin'), 'Invalid token', what);
    assert.equal((await door.api.request('GET', '/v1/stats', { key })).status, 401, what);
    assert.equal(await client.denied([], 'refreshToken', key), 'Invalid token', what);
  }
  await client.granted('refreshToken', by(PARTNERS, PARTNER, { jti: 'next' }));
  // Nothing keeps a partner's token from being an administrator's, unless its roles do.
  assert.equal(await outcome(door, by(PARTNERS, PARTNER, { role: 'admin' }), '/admin'), 'ready');
});

test('a key with roles gives none but these', async ({ node }) => {
  const door = await node({ config: own + partner('roles = ["user"]') });
  for (const claims of [{ role: 'admin' }, { roles: ['admin', 'user'] }, { role: 'admin', roles: ['user'] }, { role: ['admin'] }]) {
    const key = by(PARTNERS, PARTNER, claims);
    assert.equal(await outcome(door, key, '/admin'), 'Admin access required');
    assert.equal((await door.api.request('GET', '/v1/stats', { key })).status, 403);
    assert.equal((await door.api.request('GET', '/metrics', { key })).status, 403);
    const { role } = await connect(door, { token: key }).ready();
    assert.equal(role, JSON.stringify(claims).includes('user') ? 'user' : null);
  }
  const sent = await door.api.ok('POST', '/v1/events', { messages: [{ room: 'role:admin', event: 'x' }, { room: 'role:user', event: 'x' }] });
  assert.deepEqual(sent.results.map(({ connections }) => connections), [0, 2]);
  assert.equal(await outcome(door, by(JWT_SECRET, OWN, { role: 'admin' }), '/admin'), 'ready');
});

test('keys of a JWKS URL are bound, and SIGHUP takes entries over', async ({ node, owned }) => {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const set = { keys: [{ ...publicKey.export({ format: 'jwk' }), kid: '1' }] };
  const server = http.createServer((_, answer) => answer.end(JSON.stringify(set)));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  owned(() => new Promise((resolve) => server.close(resolve)));
  const pem = privateKey.export({ format: 'pem', type: 'pkcs8' });
  const signed = (iss, claims = {}) => token('1', { iss, ...claims }, { secret: pem, algorithm: 'ES256', keyid: '1' });

  const door = await node({ config: own + entry(`jwks_url = "http://127.0.0.1:${server.address().port}/"\nissuer = "${PARTNER}"`) });
  assert.equal(await outcome(door, signed(PARTNER)), 'ready');
  assert.equal(await outcome(door, signed(OWN, { role: 'admin' }), '/admin'), 'Invalid token');
  assert.equal(await outcome(door, by(PARTNERS, PARTNER)), 'Invalid token');

  door.reload(own + partner());
  await eventually('the other key is taken', async () => assert.equal(await outcome(door, by(PARTNERS, PARTNER)), 'ready'));
  assert.equal(await outcome(door, signed(PARTNER)), 'Invalid token');
});

test('a private key in a JWK set is refused, by its kid', async () => {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const jwk = { ...privateKey.export({ format: 'jwk' }), kid: 'signing-2026' };
  const file = writeScratch('json', JSON.stringify({ keys: [jwk] }));
  const { code, output } = await runBinary(['serve', '--listen', '127.0.0.1:0'], { env: { SWITCHBOARD_AUTH__JWT__JWKS_FILE: file, SWITCHBOARD_API_KEY: API_KEY } });
  assert.equal(code, 64, output);
  assert.match(output, /auth\.jwt\.jwks_file.*private key.*signing-2026/);
  assert.ok(!output.includes(jwk.d), output);
});

test('an entry has exactly one source; secrets are masked; the environment takes JSON', async () => {
  for (const [lines, culprit] of [
    [`secret = "${PARTNERS}"\njwks_url = "https://x/jwks"`, /auth\.jwt\.keys\.1\b.*exactly one.*secret and jwks_url/],
    ['issuer = "https://x"', /auth\.jwt\.keys\.1\b.*exactly one.*none/],
    [`secret = "${PARTNERS}"\nissuers = "https://x"`, /auth\.jwt\.keys\.1\.issuers.*unknown key/],
    [`secret = "${PARTNERS}"\nalgorithms = ["none"]`, /auth\.jwt\.keys\.1\.algorithms/],
  ]) {
    const { code, output } = await runBinary(['check-config', '--config', writeScratch('toml', own + partner() + entry(lines))], { env: { SWITCHBOARD_API_KEY: API_KEY } });
    assert.equal(code, 1, output);
    assert.match(output, culprit);
    assert.ok(!output.includes(PARTNERS), output);
  }
  const env = { SWITCHBOARD_API_KEY: API_KEY, SWITCHBOARD_AUTH__JWT__KEYS: JSON.stringify([{ secret: PARTNERS, issuer: PARTNER, roles: ['user'] }]) };
  const printed = await runBinary(['print-config'], { env });
  assert.equal(printed.code, 0, printed.output);
  assert.match(printed.stdout, /\[\[auth\.jwt\.keys\]\]\nsecret = "\*\*\*"\nissuer = \["https:\/\/partner\.example"\]/);
  assert.ok(!printed.output.includes(PARTNERS), printed.output);
  const minted = await runBinary(['token', '--user', '1'], { env });
  assert.notEqual(minted.code, 0, 'expected the keys of entries not to sign');
  assert.match(minted.output, /auth\.jwt\.secret/);
  const { output } = await runBinary(['check-token', by(PARTNERS, PARTNER, { roles: ['admin', 'user'] })], { env });
  assert.match(output, /user/);
  assert.doesNotMatch(output, /admin/);
});
