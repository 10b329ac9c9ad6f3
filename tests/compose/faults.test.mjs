// Nodes and Redis that die.

import assert from 'node:assert/strict';
import { afterEach, before, describe, test } from 'node:test';
import { exchange } from '../js/support/api.mjs';
import { closeClients } from '../js/support/client.mjs';
import { eventually } from '../js/support/wait.mjs';
import { POLLING, byNode, crowd, ends, everybodyListed, lastNode, someone } from './support/clients.mjs';
import { PUBLIC, api as operators, compose, containerOf, containers, docker, redis, seconds, settled, up } from './support/docker.mjs';

let api;
before(async () => {
  api = await operators();
});
afterEach(() => closeClients());

describe('docker kill of a node', () => {
  test('is survived: its clients come back by themselves, nobody else notices, presence is exact within 15 s', async () => {
    const user = someone('survivor');
    const clients = [...(await crowd(6, user)), ...(await crowd(6, user, POLLING))];
    const [[victim, its]] = [...byNode(clients)].sort(([, one], [, other]) => other.length - one.length);
    assert.ok(byNode(clients).size >= 2, 'expected clients on other nodes too');
    const container = await containerOf(victim);
    await docker('kill', container.Id);
    const killed = Date.now();
    await Promise.all(its.map((client) => client.ready({ nth: 2, ms: seconds(30) })));
    for (const client of its) assert.notEqual(lastNode(client), victim);
    await everybodyListed(api, user, clients, { ms: seconds(15) - (Date.now() - killed) });
    console.log(`presence is exact ${Date.now() - killed} ms after the kill`);
    for (const client of clients) if (!its.includes(client)) assert.equal(ends(client), 0, `${client.label}, on another node: ${client.history()}`);
    assert.deepEqual(await api.send(user, 'after', 1), { connections: 12, nodes: 2, unconfirmed: 0 });
    await Promise.all(clients.map((client) => client.wait('after', { ms: seconds(10) })));
    assert.ok((await api.nodes()).every(({ nodeId }) => nodeId !== victim));

    await docker('start', container.Id);
    await up();
    await settled(3);
  });
});

describe('docker kill of Redis', () => {
  test('is survived: nobody is dropped, what was banned stays so, sends across nodes work again', async () => {
    const user = someone('patient');
    const clients = [...(await crowd(6, user)), ...(await crowd(3, user, POLLING))];
    assert.equal(byNode(clients).size, 3);
    const banned = someone('banned');
    await api.ban(banned, { reason: 'before the outage' });
    // A family is written by a script of several writes, which the append-only file has as a transaction.
    const { refreshToken } = await api.openSession(user);
    // Written at most a second ago (appendfsync everysec): what is asked for here is in the file.
    await redis('WAITAOF', '1', '0', '5000');
    const refused = (await redis('ACL', 'LOG')).join(' ');

    const [{ Id }] = await containers('redis');
    await docker('kill', Id);
    await eventually('the API says 503 while Redis is away', async () => {
      const { status, headers } = await api.request('POST', `/v1/users/${user}/events`, { json: { event: 'x', data: 1 } });
      assert.equal(status, 503);
      assert.ok(headers['retry-after']);
    }, { ms: seconds(20), every: 200 });
    for (const client of clients) assert.equal(ends(client), 0, `${client.label} during the outage: ${client.history()}`);
    await docker('start', Id);
    await up();

    await eventually('a send reaches all on every node', async () => assert.deepEqual(await api.send(user, 'back', 1), { connections: 9, nodes: 3, unconfirmed: 0 }), { ms: seconds(30), every: 250 });
    await Promise.all(clients.map((client) => client.wait('back', { ms: seconds(10) })));
    await everybodyListed(api, user, clients);
    for (const client of clients) {
      assert.deepEqual([ends(client), client.count('ready')], [0, 1], `${client.label}: ${client.history()}`);
      await client.granted('devices');
    }
    assert.equal((await api.banOf(banned)).banned, true, 'expected the ban to have outlived Redis');
    await api.unban(banned);
    const { status, text } = await exchange(PUBLIC, 'POST', '/api/refresh-token', { headers: { cookie: `refreshToken=${refreshToken}`, 'content-length': 0 } });
    assert.equal(status, 200, `expected the refresh token to have outlived Redis: ${text}`);
    assert.deepEqual([refused, (await redis('ACL', 'LOG')).join(' ')], ['', ''], 'expected nothing to be refused by the ACL, also on the way back');
  });

  test('and of all its data: presence is whole again without anybody reconnecting', async () => {
    const user = someone('rebuilt');
    const clients = await crowd(6, user);
    await redis('FLUSHALL');
    await everybodyListed(api, user, clients);
    for (const client of clients) assert.equal(ends(client), 0, `${client.label}: ${client.history()}`);
  });
});

describe('docker restart of the balancer', () => {
  test('is survived: everybody comes back, presence is exact', async () => {
    const user = someone('balanced');
    const clients = [...(await crowd(6, user)), ...(await crowd(3, user, POLLING))];
    await compose('restart', '--timeout', '1', 'haproxy');
    await up();
    await everybodyListed(api, user, clients);
  });
});
