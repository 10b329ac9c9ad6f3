// A fleet that was of the first layout of keys (0.1.0): what is held against its users is carried over when the first node starts,
// and its connections are not.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import jwt from 'jsonwebtoken';
import { connect, connected, eventually, Jar, nodes, soon, test, token } from './harness.mjs';

/** Everything that a node of 0.1.0 left in Redis, which had signed with the same secret. */
const { refreshTokens, commands } = JSON.parse(readFileSync(new URL('fixtures/layout-1.json', import.meta.url), 'utf8'));
const NOT_BANNED = { banned: false, reason: null, until: null };
const ODD = 'odd \u0001{x}:*é😀';
/** A token of the time before everything that was recorded. */
const old = (user, claims = {}) => token(user, { iat: 1700000000, ...claims });

/** Sends commands in one go; words are text, or bytes as base64. */
function send(store, lines) {
  const bytes = (word) => (word.base64 === undefined ? Buffer.from(word) : Buffer.from(word.base64, 'base64'));
  const parts = lines.flatMap((words) => [Buffer.from(`*${words.length}\r\n`), ...words.map(bytes).flatMap((word) => [Buffer.from(`$${word.length}\r\n`), word, Buffer.from('\r\n')])]);
  return new Promise((resolve, reject) => {
    let replies = '';
    net.connect(store.port, '127.0.0.1', function connected() { this.end(Buffer.concat(parts)); }).setEncoding('latin1').on('data', (part) => { replies += part; })
      .on('error', reject).on('end', () => resolve(replies));
  });
}

async function recorded(redis) {
  const store = await redis();
  const replies = await send(store, commands);
  assert.ok(!/(^|\n)-/.test(replies), `expected Redis to take what was recorded: ${replies}`);
  return store;
}

const said = (node) => node.lines.filter((line) => line.includes('first layout'));
const refresh = (at, cookie) => new Jar().keep(`refreshToken=${cookie}; Path=/api`).post(at.url, '/api/refresh-token');

test('bans, revocations, ended and open sessions outlive the upgrade, and nobody of before is listed', async ({ node, redis }) => {
  const store = await recorded(redis);
  const [first, other] = await Promise.all(['first', 'other'].map((name) => node({ redis: store, name })));
  const lines = [...said(first), ...said(other)];
  assert.ok(lines.length >= 1 && said(first).length <= 1 && said(other).length <= 1, `expected a line of log of each that found it: ${lines.join('\n')}`);
  for (const line of lines) assert.match(line, /INFO .*first layout/);

  const stats = await first.api.stats();
  assert.deepEqual([stats.connections, stats.users], [0, 0], 'expected no connection of before');
  assert.equal((await first.api.nodes()).length, 2);
  assert.equal((await first.api.user('ghost')).online, false);

  assert.deepEqual(await first.api.banOf('banned'), { banned: true, reason: 'spam', until: null });
  assert.equal(Date.parse((await first.api.banOf('paused')).until), Date.parse('2100-01-01T00:00:00Z'));
  for (const at of [first, other]) {
    for (const user of ['banned', 'paused', ODD]) await connect(at, { user }).refused('User banned');
    await connect(at, { token: old('revoked') }).refused('Token revoked');
    await connect(at, { user: 'anybody', claims: { jti: 'a-jti' } }).refused('Token revoked');
    await connect(at, { user: 'left', claims: { sid: refreshTokens.left.split('.')[0] } }).refused('Token revoked');
    await connected(at, { user: 'revoked' });
    await connected(at, { user: 'left' });
    await connected(at, { user: 'ghost' });
  }

  assert.equal((await refresh(first, refreshTokens.left)).status, 401, 'expected a session that was left to be over');
  const answer = await refresh(first, refreshTokens.stays);
  assert.equal(answer.status, 200, `expected a session that was open to go on: ${answer.text}`);
  const claims = jwt.decode(answer.json.token);
  assert.deepEqual([claims.sub, claims.username, [claims.roles ?? claims.role].flat()], ['stays', 'ann', ['editor']]);
  await connected(other, { token: answer.json.token });
});

test('it is done once: what is lifted later stays lifted, whoever starts', async ({ node, redis }) => {
  const store = await recorded(redis);
  const first = await node({ redis: store, name: 'first' });
  assert.deepEqual(await first.api.unban('banned'), NOT_BANNED);
  const second = await node({ redis: store, name: 'second' });
  assert.deepEqual(said(second), []);
  assert.deepEqual(await second.api.banOf('banned'), NOT_BANNED);
  await connected(second, { user: 'banned' });
  await connect(second, { user: 'paused' }).refused('User banned');
});

test('what a node leaves undone that dies meanwhile the next one does, and what is newer wins', async ({ node, redis }) => {
  const store = await recorded(redis);
  const first = await node({ redis: store, name: 'first' });
  await first.api.ban('banned', { reason: 'newer' });
  await first.api.unban('paused');
  await first.kill();
  // As it would have been, had it come to the shard of the first user, and not to the end of it.
  assert.equal(await store.command('DEL', 'switchboard:2:{sd}:carried'), ':1\r\n');
  assert.equal(await store.command('DEL', 'switchboard:2:{s4}:carried'), ':1\r\n');
  assert.match(await store.command('DEL', `switchboard:2:{s4}:ban:${ODD.replaceAll('\u0001', '\u0001\u0002')}`), /^:1/);
  const second = await node({ redis: store, name: 'second' });
  assert.equal(said(second).length, 1);
  assert.equal((await second.api.banOf('banned')).reason, 'newer');
  assert.equal((await second.api.banOf(ODD)).banned, true);
  assert.deepEqual(await second.api.banOf('paused'), NOT_BANNED, 'expected a shard that is done to be left alone');
});

test('while it can\'t be done nobody is taken in', async ({ node, redis }) => {
  const store = await recorded(redis);
  assert.equal(await store.command('ACL', 'SETUSER', 'default', '-scan'), '+OK\r\n');
  const starting = node({ redis: store, name: 'refused' });
  const refused = await eventually('the node listens', async () => {
    const one = [...nodes].find(({ name, url }) => name === 'refused' && url);
    assert.ok(one);
    return one;
  });
  await eventually('it says what is missing', async () => {
    assert.equal(said(refused).filter((line) => /WARN .*NOPERM/i.test(line) || /WARN .*scan/.test(line)).length, 1, refused.log);
  });
  assert.equal((await refused.api.request('GET', '/readyz', { key: null })).status, 503);
  assert.equal((await refused.api.request('GET', '/v1/users/banned/ban')).status, 503);
  assert.equal((await refresh(refused, refreshTokens.stays)).status, 503, 'expected nobody to be logged out');
  assert.equal(await store.command('ACL', 'SETUSER', 'default', '+scan'), '+OK\r\n');
  const at = await starting;
  await connect(at, { user: 'banned' }).refused('User banned');
  await connected(at, { user: 'anybody' });
  assert.equal((await refresh(at, refreshTokens.stays)).status, 200);
});

test('a Redis without an earlier fleet is no matter for the log; nor is another fleet\'s', async ({ node, redis }) => {
  const store = await recorded(redis);
  const at = await node({ redis: store, name: 'another', env: { SWITCHBOARD_REGISTRY__PREFIX: 'switch' } });
  assert.deepEqual(said(at), []);
  assert.deepEqual(await at.api.banOf('banned'), NOT_BANNED);
  await connected(at, { user: 'banned', claims: { exp: soon(600) } });
});
