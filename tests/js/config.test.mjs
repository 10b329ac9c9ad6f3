// Contract 2 and 9: what of the door is a matter of configuration, through TOML and through the environment.

import assert from 'node:assert/strict';
import { createHmac, generateKeyPairSync } from 'node:crypto';
import jwt from 'jsonwebtoken';
import { connect, connected, JWT_SECRET, someone, test, token, writeScratch } from './harness.mjs';

const soon = () => Math.floor(Date.now() / 1000) + 600;
const PREVIOUS = 'the-secret-before-the-present-one-0123456789';

test('a configured list of namespaces replaces the default set, each with its own rule', async ({ node }) => {
  const door = await node({
    config: `
[[namespaces]]
path = "/"
auth = "required"

[[namespaces]]
path = "/open"
auth = "none"

[[namespaces]]
path = "/staff"
auth = "required"
roles = ["editor", "chief"]

[[namespaces]]
path = "/partners"
auth = "required"
issuer = ["https://partner.example"]
audience = ["partners"]
`,
  });
  await connect(door, { user: '1', claims: { role: 'admin' }, namespace: '/admin' }).refused('Invalid namespace');
  await connect(door, { auth: {}, namespace: '/public' }).refused('Invalid namespace');
  await connected(door, { auth: {}, namespace: '/open' });
  await connect(door, { user: '1', namespace: '/staff' }).refused('Access denied');
  await connect(door, { user: '1', claims: { role: 'admin' }, namespace: '/staff' }).refused('Access denied');
  await connected(door, { user: '1', claims: { role: 'chief' }, namespace: '/staff' });
  await connect(door, { user: '1', namespace: '/partners' }).refused('Invalid token');
  await connect(door, { user: '1', claims: { iss: 'https://partner.example' }, namespace: '/partners' }).refused('Invalid token');
  await connected(door, { user: '1', claims: { iss: 'https://partner.example', aud: 'partners' }, namespace: '/partners' });
  await connected(door, { user: '1' });
});

test('iss and aud are checked when they are configured', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_AUTH__JWT__ISSUER: 'https://a.example,https://b.example', SWITCHBOARD_AUTH__JWT__AUDIENCE: 'chat' } });
  const refused = [
    {},
    { iss: 'https://a.example' },
    { aud: 'chat' },
    { iss: 'https://c.example', aud: 'chat' },
    { iss: 'https://a.example', aud: 'shop' },
    { iss: ['https://c.example'], aud: 'chat' },
  ];
  for (const claims of refused) {
    const given = jwt.sign(JSON.stringify({ sub: '1', exp: soon(), ...claims }), JWT_SECRET);
    await connect(door, { token: given, label: `a token with ${JSON.stringify(claims)}` }).refused('Invalid token');
  }
  await connected(door, { user: '1', claims: { iss: 'https://b.example', aud: 'chat' } });
  await connected(door, { user: '1', claims: { iss: 'https://a.example', aud: ['shop', 'chat'] } });
});

test('the user claim and the leeway can be set', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_AUTH__JWT__USER_ID_CLAIM: 'uid', SWITCHBOARD_AUTH__JWT__LEEWAY: '0s' } });
  assert.equal((await connect(door, { user: 'wrong', claims: { uid: 'right' } }).ready()).userId, 'right', 'expected the user from the configured claim');
  await connect(door, { user: 'only-sub' }).refused('Invalid token');
  await connect(door, { user: 'x', claims: { uid: 'late', exp: Math.floor(Date.now() / 1000) - 2 } }).refused('Invalid or expired token');
});

test('a token two seconds past exp is let through by the default leeway of 5 s', async ({ node }) => {
  const door = await node();
  await connected(door, { user: someone('late'), claims: { exp: Math.floor(Date.now() / 1000) - 2 } });
});

test('previous secrets still verify', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_AUTH__JWT__PREVIOUS_SECRETS: PREVIOUS } });
  await connected(door, { token: token('1', {}, { secret: PREVIOUS }) });
  await connected(door, { token: token('1') });
  await connect(door, { token: token('1', {}, { secret: `${PREVIOUS}x` }) }).refused('Invalid token');
});

test('auth.jwt.algorithms narrows what a key allows', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_AUTH__JWT__ALGORITHMS: 'HS512' } });
  await connect(door, { token: token('1') }).refused('Invalid token');
  await connected(door, { token: token('1', {}, { algorithm: 'HS512' }) });
});

test('a PEM file verifies, and its text is no HMAC secret', async ({ node }) => {
  const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const pem = publicKey.export({ type: 'spki', format: 'pem' });
  const door = await node({ env: { SWITCHBOARD_AUTH__JWT__PUBLIC_KEY_FILE: writeScratch('pem', pem) } });
  for (const algorithm of ['RS256', 'PS512']) {
    await connected(door, { token: jwt.sign({ sub: '1', exp: soon() }, privateKey, { algorithm }) });
  }
  await connected(door, { token: token('1') });
  // jsonwebtoken refuses to make this one, so it is put together by hand: RS/HS confusion.
  const unsigned = [{ alg: 'HS256', typ: 'JWT' }, { sub: '1', exp: soon() }].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  const forged = `${unsigned}.${createHmac('sha256', pem).update(unsigned).digest('base64url')}`;
  await connect(door, { token: forged, label: 'a token signed with the public key\'s text' }).refused('Invalid token');
});

test('a JWKS file verifies by kid', async ({ node }) => {
  const pairs = { one: generateKeyPairSync('ec', { namedCurve: 'P-256' }), two: generateKeyPairSync('ec', { namedCurve: 'P-256' }) };
  const keys = Object.entries(pairs).map(([kid, { publicKey }]) => ({ ...publicKey.export({ format: 'jwk' }), kid, alg: 'ES256', use: 'sig' }));
  const door = await node({ env: { SWITCHBOARD_AUTH__JWT__JWKS_FILE: writeScratch('json', JSON.stringify({ keys })) } });
  const sign = (pair, keyid) => jwt.sign({ sub: '1', exp: soon() }, pairs[pair].privateKey, { algorithm: 'ES256', keyid });
  await connected(door, { token: sign('one', 'one') });
  await connected(door, { token: sign('two', 'two') });
  await connect(door, { token: sign('one', 'two'), label: 'a token with another key\'s kid' }).refused('Invalid token');
  await connect(door, { token: sign('one', '../../etc/passwd'), label: 'a token with a hostile kid' }).refused('Invalid token');
});
