// What Switchboard is allowed in Redis: all that it does, and no more.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, before, describe, test } from 'node:test';
import { exchange } from '../js/support/api.mjs';
import { closeClients } from '../js/support/client.mjs';
import { eventually } from '../js/support/wait.mjs';
import { join, POLLING, someone } from './support/clients.mjs';
import { PUBLIC, ROOT, api as operators, inside, mayRun, redis, run, seconds, token } from './support/docker.mjs';

let api;
before(async () => {
  api = await operators();
});
afterEach(() => closeClients());

/** Every file below a directory. */
const files = (directory) => readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
  const full = path.join(directory, entry.name);
  return entry.isDirectory() ? files(full) : [full];
});

describe('Redis', () => {
  test('refuses rather than evicts, and keeps what it was told', async () => {
    const value = async (name) => (await redis('CONFIG', 'GET', name))[1];
    assert.equal(await value('maxmemory-policy'), 'noeviction');
    assert.equal(await value('maxmemory'), String(256 * 1024 * 1024));
    assert.equal(await value('appendonly'), 'yes');
  });

  test('has no user that anyone could be without a password, but one that may only PING', async () => {
    const ask = async (...args) => (await run('docker', ['compose', 'exec', '-T', 'redis', 'redis-cli', '--no-auth-warning', ...args])).stdout.trim();
    assert.match(await ask('PING'), /^NOAUTH/);
    assert.equal(await ask('--user', 'probe', '--pass', 'x', 'PING'), 'PONG');
    const users = Object.fromEntries((await redis('ACL', 'LIST')).map((line) => [line.split(' ')[1], line]));
    assert.deepEqual(Object.keys(users).sort(), ['admin', 'default', 'probe', 'switchboard']);
    assert.match(users.default, / off (?!.*nopass)(?!.*#)/);
    assert.match(users.probe, / on nopass .*resetchannels -@all \+ping$/);
    for (const name of ['admin', 'switchboard']) assert.match(users[name], / on (?!.*nopass).*#[0-9a-f]{64} /);
  });

  test('lets Switchboard at its own keys, and reads sessions, and nothing else', async () => {
    const open = [['SET', 'switchboard:{s0}:ban:x', '1'], ['INFO', 'memory'], ['MGET', 'sess:abc', 'sess:def'], ['PTTL', 'sess:abc'], ['SPUBLISH', 'switchboard:{nodes}:bus:all', 'x'], ['SSUBSCRIBE', 'switchboard:{s0}:bus:x']];
    assert.deepEqual(await mayRun('switchboard', open), open.map(() => 'OK'));
    const closed = [['SET', 'sess:abc', '1'], ['DEL', 'sess:abc'], ['GET', 'other'], ['SET', 'switchboardx', '1'], ['SPUBLISH', 'other', 'x'], ['PUBLISH', 'switchboard:{nodes}:bus:all', 'x'], ['SSUBSCRIBE', 'other'], ['SUBSCRIBE', '__keyspace@0__:x'], ['PSUBSCRIBE', 'switchboard:*'],
      ['FLUSHALL'], ['FLUSHDB'], ['KEYS', '*'], ['CONFIG', 'GET', '*'], ['CONFIG', 'SET', 'dir', '/'], ['ACL', 'LIST'], ['SHUTDOWN'], ['DEBUG', 'SLEEP', '1'], ['EVAL', 'return 1', '0'],
      ['SCRIPT', 'FLUSH'], ['SCRIPT', 'KILL'], ['CLIENT', 'LIST'], ['CLIENT', 'KILL', 'ID', '1'], ['INFO'], ['MONITOR'], ['REPLICAOF', 'x', '1'], ['SAVE'], ['MODULE', 'LIST']];
    const wrong = (await mayRun('switchboard', closed)).flatMap((answer, i) => (answer === 'OK' ? [closed[i].join(' ')] : []));
    assert.deepEqual(wrong, [], 'expected none of these to be allowed');
  });

  test('allows every command that the source names, and hardly one that it does not', async () => {
    const source = files(path.join(ROOT, 'src')).filter((file) => /\.(rs|lua)$/.test(file)).map((file) => readFileSync(file, 'utf8').split('#[cfg(test)]')[0]).join('\n');
    const named = new Set([...source.matchAll(/redis\.call\('([A-Z]+)'|(?:redis::cmd\(|\.cmd\(|about\(connection, )"([A-Z]+)"/g)].map(([, lua, rust]) => (lua ?? rust).toLowerCase()));
    // Pipelines have methods that are called as the commands are; so has much else in Rust, whence the few names that don't count.
    const known = new Set((await redis('COMMAND', 'LIST')).map((name) => name.toLowerCase()));
    const ambiguous = new Set(['append', 'copy', 'info', 'keys', 'move', 'select', 'sort', 'subscribe', 'time', 'touch', 'type', 'wait', 'watch']);
    const rust = files(path.join(ROOT, 'src/registry/redis')).map((file) => readFileSync(file, 'utf8').split('#[cfg(test)]')[0]).join('\n');
    for (const [, name] of rust.matchAll(/\.([a-z]+)\(/g)) if (known.has(name) && !ambiguous.has(name)) named.add(name);
    assert.ok(named.size > 20, `expected the source to name its commands, found ${[...named]}`);
    const granted = readFileSync(path.join(ROOT, 'deploy/redis/switchboard.acl'), 'utf8').split('\n').filter((line) => !line.startsWith('#')).join(' ').split(/\s+/)
      .filter((word) => word.startsWith('+')).map((word) => word.slice(1));
    const commands = new Set(granted.map((word) => word.split('|')[0]));
    // Only said with redis.mode = "cluster" or "sentinel", which this file's Redis is not, and with [ingress.emitter] or
    // [ingress.python], for which switchboard.acl says in a comment what to append.
    const elsewhere = ['cluster', 'sentinel', 'role', 'asking', 'readonly', 'psubscribe', 'subscribe'];
    // Redis asks nobody for a right to say it.
    const free = ['hello'];
    assert.deepEqual([...named].filter((name) => !commands.has(name) && !elsewhere.includes(name) && !free.includes(name)), [], 'expected every command of the source in switchboard.acl');
    // What the libraries say by themselves: the link's subscriptions, scripts, and a pool's way to take a connection back.
    const libraries = ['client', 'script', 'evalsha', 'unwatch'];
    assert.deepEqual([...commands].filter((name) => !named.has(name) && !libraries.includes(name)), [], 'expected nothing in switchboard.acl that nobody needs');
  });
});

describe('the main paths', () => {
  test('work as the user that the ACL describes, with nothing refused', async () => {
    const user = someone('paths');
    const one = await join(user, { deviceId: 'phone', claims: { jti: `jti-${user}` } });
    const two = await join(user, { deviceId: 'laptop', ...POLLING });
    const admin = await join(someone('admin'), { namespace: '/admin', claims: { role: 'admin' } });
    const guest = await join(undefined, { namespace: '/public', token: null });
    one.answer('question', 42);
    two.answer('question', 43);

    assert.equal((await api.user(user)).devices, 2);
    assert.ok((await api.ok('GET', '/v1/users?limit=10')).users.length >= 1);
    assert.equal((await api.ok('POST', '/v1/presence', { users: [user] })).users[user].online, true);
    assert.equal((await api.connection(one.id)).userId, user);
    assert.equal((await api.nodes()).length, 3);
    assert.equal((await api.send(user, 'question', 1, { ack: { timeoutMs: 5000 } })).acks.length, 2);
    const bulk = await api.ok('POST', '/v1/events', { messages: [{ user, event: 'a', data: 1 }, { connection: one.id, event: 'a', data: 2 }, { room: `user:${user}`, event: 'a', data: 3 }] });
    assert.ok(bulk.results.every((result) => !('error' in result)), JSON.stringify(bulk));
    await api.ok('POST', '/v1/broadcast', { event: 'b', data: 1, namespace: '/public' });
    await guest.wait('b', { ms: seconds(10) });
    assert.notEqual((await guest.granted('authenticate', await token(someone('late')))).connectionId, guest.id);
    await eventually('the guest is out of the registry', async () => assert.equal((await api.request('GET', `/v1/connections/${guest.id}`)).status, 404));

    await one.granted('refreshToken', await token(user));
    assert.equal((await one.granted('devices')).connections.length, 2);
    assert.ok((await admin.granted('listUsers', {})).users);
    assert.ok((await admin.granted('getUser', { user })).online);

    const { cookie, refreshToken } = await api.openSession(user);
    assert.ok(cookie && refreshToken);
    const refreshed = await exchange(PUBLIC, 'POST', '/api/refresh-token', { headers: { cookie: `refreshToken=${refreshToken}`, 'content-length': 0 } });
    assert.equal(refreshed.status, 200, refreshed.text);
    const next = /refreshToken=([^;]+)/.exec(String(refreshed.headers['set-cookie']))[1];
    const third = await join(user, { token: refreshed.json.token });
    const out = await exchange(PUBLIC, 'POST', '/api/logout', { headers: { cookie: `refreshToken=${next}`, 'content-length': 0 } });
    assert.ok(out.status < 300, out.text);
    await third.kicked(4503);

    await one.granted('logoutDevice', two.id);
    await two.kicked(4505);
    const four = await join(user, { claims: { jti: `four-${user}` } });
    await api.revokeToken(`four-${user}`);
    await four.kicked(4502);
    const five = await join(user);
    await api.ok('DELETE', `/v1/connections/${five.id}`);
    await five.kicked(4500);
    await api.revokeTokens(user);
    await one.kicked(4502);
    await api.ban(user, { reason: 'test', until: new Date(Date.now() + 60000).toISOString() });
    assert.equal((await api.banOf(user)).banned, true);
    await api.unban(user);
    await api.disconnect(user, { revokeTokens: true });
    assert.equal((await api.user(user)).online, false);
    assert.equal(await inside('redis', 'redis-cli', '--no-auth-warning', '--user', 'probe', '--pass', 'x', 'PING'), 'PONG');
  });

  test('leave the log of Redis\'s ACL empty', async () => {
    assert.deepEqual((await redis('ACL', 'LOG')).join(' '), '', 'expected nothing to have been refused since Redis was started');
  });
});
