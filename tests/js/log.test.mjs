// The log and the audit: nobody outside forges a line, fills them, or turns them over.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { connect, connected, eventually, exchange, segment, someone, test, writeScratch } from './harness.mjs';

/** How many bytes a node has logged since `from` lines. */
const bytes = (node, from) => node.lines.slice(from).reduce((sum, line) => sum + Buffer.byteLength(line) + 1, 0);

test('a thousand reconnects leave some lines at info, and all are counted', { ms: 120000 }, async ({ node, note }) => {
  const door = await node();
  const from = door.lines.length;
  for (let round = 0; round < 20; round += 1) {
    const crowd = await Promise.all(Array.from({ length: 50 }, () => connected(door, { user: someone('crowd'), reconnection: false })));
    for (const client of crowd) client.socket.disconnect();
  }
  await door.line(/gone=/);
  await eventually('everybody is gone', async () => {
    const seen = door.lines.slice(from).map((line) => Number(/ gone=(\d+)/.exec(line)?.[1] ?? 0));
    assert.equal(seen.reduce((sum, n) => sum + n, 0), 1000);
  }, { ms: 30000 });
  const all = bytes(door, from);
  note(`${all} bytes of log for 1,000 reconnects`);
  assert.ok(all < 40000, `expected less than 40 bytes for each, got ${all} bytes:\n${door.lines.slice(from, from + 20).join('\n')}`);
});

test('refusals are counted by reason in that line', { ms: 60000 }, async ({ node }) => {
  const door = await node();
  for (let i = 0; i < 3; i += 1) await connect(door, { token: 'no-token', reconnection: false }).refused('Invalid token');
  // The node may write its line between two of them.
  await eventually('all are counted', async () => {
    const counted = door.lines.map((line) => / refused=(\d+) refusals="invalid (\d+)"/.exec(line)).filter(Boolean);
    for (const [line, refused, invalid] of counted) assert.equal(refused, invalid, line);
    assert.equal(counted.reduce((sum, [, refused]) => sum + Number(refused), 0), 3);
  }, { ms: 30000 });
});

test('an id makes no second line and no field, in an audit file of its own', async ({ node }) => {
  const file = writeScratch('log', '');
  const desk = await node({ env: { SWITCHBOARD_LOG__AUDIT_FILE: file } });
  const user = 'a\naudit: access who="key:root" what="ban" whom="everybody" result="done"';
  const answer = await desk.api.request('POST', `/v1/users/${segment(user)}/disconnect`, { json: {} });
  assert.equal(answer.status, 200, answer.text);
  const lines = await eventually('the audit line', async () => {
    const read = readFileSync(file, 'utf8').split('\n').filter(Boolean);
    assert.equal(read.length, 1, read.join('\n'));
    return read;
  });
  assert.ok(lines[0].includes('whom="a\\naudit: access who=\\"key:root\\"'), lines[0]);
  assert.ok(!desk.log.includes('key:root'), desk.log);
});

test('an event of /admin of 900 KB is no line of 900 KB', async ({ node }) => {
  const desk = await node({ env: { SWITCHBOARD_LOG__LEVEL: 'debug' } });
  const admin = await connected(desk, { user: someone('boss'), claims: { role: 'admin' }, namespace: '/admin' });
  const from = desk.lines.length;
  await admin.ask('disconnectUser', { user: 'x'.repeat(900000) });
  await desk.line(/disconnectUser/);
  const longest = Math.max(...desk.lines.slice(from).map((line) => line.length));
  assert.ok(longest < 2000, `a line of ${longest} characters`);
});

test('junk at /api/logout fills no audit', async ({ node }) => {
  const door = await node();
  const from = door.lines.length;
  for (let i = 0; i < 200; i += 1) {
    const answer = await fetch(`${door.url}/api/logout`, { method: 'POST', headers: { cookie: `refreshToken=junk-${i}` } });
    assert.equal(answer.status, 204);
  }
  await door.api.request('POST', '/v1/users/last/disconnect', { json: {} });
  await door.line(/whom="last"/);
  assert.equal(door.lines.slice(from).filter((line) => / audit: /.test(line)).length, 1);
});

test('a cookie of a session that is over is replayed for nothing: each session ends once', async ({ node }) => {
  const door = await node();
  const post = (path, cookie) => exchange(door.url, 'POST', path, { headers: { cookie, 'content-length': 0 } });
  const open = async () => (await door.api.openSession(someone('replays'))).cookie.split(';')[0];
  const from = door.lines.length;
  const closed = await open();
  for (let i = 0; i < 100; i += 1) assert.equal((await post('/api/logout', closed)).status, 204);

  const stolen = await open();
  let newest = stolen;
  for (let i = 0; i < 2; i += 1) newest = (await post('/api/refresh-token', newest)).headers['set-cookie'][0].split(';')[0];
  for (let i = 0; i < 100; i += 1) assert.equal((await post('/api/refresh-token', stolen)).status, 401);
  assert.equal((await post('/api/logout', newest)).status, 204);
  await door.api.request('POST', '/v1/users/last/disconnect', { json: {} });
  await door.line(/whom="last"/);
  const since = door.lines.slice(from);
  assert.equal(since.filter((line) => /what="close_session"/.test(line)).length, 1);
  assert.equal(since.filter((line) => /a refresh token was used twice/.test(line)).length, 1);
});
