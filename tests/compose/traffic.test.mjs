// What clients and backends meet at the balancer.

import assert from 'node:assert/strict';
import http from 'node:http';
import os from 'node:os';
import { after, afterEach, before, describe, test } from 'node:test';
import { exchange } from '../js/support/api.mjs';
import { closeClients } from '../js/support/client.mjs';
import { eventually } from '../js/support/wait.mjs';
import { POLLING, STOCK, byNode, crowd, ends, everybodyListed, join, someone } from './support/clients.mjs';
import { OPERATORS, PROJECT, PUBLIC, api as operators, containers, seconds } from './support/docker.mjs';

let api;
before(async () => {
  api = await operators();
});
afterEach(() => closeClients());

describe('clients', () => {
  test('spread over the replicas', async () => {
    const clients = await crowd(12, (i) => someone(`spread-${i}`));
    const shares = [...byNode(clients).values()].map(({ length }) => length);
    assert.equal(shares.length, 3, `expected clients on three nodes, got ${shares}`);
    assert.ok(Math.min(...shares) >= 2, `expected a fair share for every node, got ${shares}`);
  });

  test('that poll stay on their node, request after request', async () => {
    const user = someone('polling');
    const clients = await crowd(9, user, POLLING);
    assert.ok(byNode(clients).size >= 2, 'expected them on several nodes: else nothing is shown');
    for (let round = 0; round < 5; round += 1) {
      await Promise.all(clients.map((client) => client.granted('devices')));
      assert.deepEqual(await api.send(user, 'round', { round }), { connections: 9, nodes: byNode(clients).size, unconfirmed: 0 });
      for (const client of clients) assert.deepEqual(await client.wait('round', { nth: round + 1, ms: seconds(10) }), [{ round }]);
    }
    for (const client of clients) {
      assert.equal(client.socket.io.engine.transport.name, 'polling');
      assert.deepEqual([ends(client), client.count('connect_error'), client.count('ready')], [0, 0, 1], `${client.label}: ${client.history()}`);
    }
  });

  test('that name no transport begin with polling and become WebSockets', async () => {
    const clients = await crowd(9, someone('stock'), STOCK);
    assert.ok(byNode(clients).size >= 2, 'expected them on several nodes: else nothing is shown');
    for (const client of clients) {
      await eventually(`${client.label} is upgraded`, () => client.socket.io.engine.transport.name === 'websocket', { ms: seconds(10) });
      await client.granted('devices');
      assert.deepEqual([ends(client), client.count('connect_error'), client.count('ready')], [0, 0, 1], `${client.label}: ${client.history()}`);
    }
  });

  test('get what is sent to their user and to everybody, on all nodes, once', async () => {
    const user = someone('send');
    const clients = [...(await crowd(6, user)), ...(await crowd(3, user, POLLING))];
    const nodes = byNode(clients).size;
    assert.equal(nodes, 3);
    for (let i = 0; i < 6; i += 1) assert.deepEqual(await api.send(user, 'news', { i }), { connections: 9, nodes, unconfirmed: 0 });
    const all = await api.ok('POST', '/v1/broadcast', { event: 'all', data: 1 });
    assert.deepEqual([all.nodes, all.unconfirmed], [3, 0], JSON.stringify(all));
    for (const client of clients) {
      await client.wait('all', { ms: seconds(10) });
      await client.wait('news', { nth: 6, ms: seconds(10) });
      assert.deepEqual(client.seen.filter(({ name }) => name === 'news').map(({ args }) => args[0].i), [0, 1, 2, 3, 4, 5], client.label);
    }
  });

  test('are all ended by one kick, wherever they are', async () => {
    const user = someone('kick');
    const bystander = await join(someone('bystander'));
    const clients = [...(await crowd(6, user)), ...(await crowd(3, user, POLLING))];
    const answer = await api.disconnect(user, { reason: 'Enough' });
    assert.deepEqual(answer, { disconnected: 9, nodes: 3, remaining: [] });
    const { online, connections } = await api.user(user);
    assert.deepEqual([online, connections], [false, []]);
    await Promise.all(clients.map((client) => client.kicked(4500, 'Enough')));
    await bystander.granted('devices');
    assert.equal(ends(bystander), 0);
  });
});

describe('addresses', () => {
  /** An address of this machine on which the balancer is not asked by default. */
  const other = () => Object.values(os.networkInterfaces()).flat().find(({ family, internal }) => family === 'IPv4' && !internal)?.address;

  test('a connection shows its client\'s, and what a client says of itself is not believed', async () => {
    const [balancer] = await containers('haproxy');
    const [{ IPAddress, Gateway }] = Object.values(balancer.NetworkSettings.Networks);
    const forged = { 'x-forwarded-for': '6.6.6.6', forwarded: 'for=6.6.6.6', 'x-real-ip': '6.6.6.6' };
    // By the balancer's own address, so that Docker's proxy for published ports is not in between.
    const from = { [Gateway]: {}, [other() ?? Gateway]: { localAddress: other() ?? Gateway } };
    for (const [address, options] of Object.entries(from)) {
      for (const extraHeaders of [{}, forged]) {
        for (const transports of [['websocket'], ['polling']]) {
          const user = someone('address');
          const agent = new http.Agent(options);
          const client = await join(user, { url: `http://${IPAddress}:8080`, transports, withCredentials: true, extraHeaders, agent });
          const [{ remoteAddr }] = (await api.user(user)).connections;
          assert.equal(remoteAddr, address, `expected the address of a ${transports} client with ${JSON.stringify(extraHeaders)}`);
          client.socket.close();
          agent.destroy();
        }
      }
    }
    assert.notEqual(IPAddress, Gateway);
  });
});

describe('what is public', () => {
  const key = () => ({ authorization: `Bearer ${api.key}` });

  test('is not /v1, /metrics, /healthz or /readyz, however they are written', async () => {
    const closed = ['/v1', '/v1/', '/v1/stats', '/v1/docs', '/v1/openapi.json', '/metrics', '/healthz', '/readyz', '//v1/stats', '/./v1/stats', '/%76%31/stats',
      '/V1/stats', '/socket.io/../v1/stats', '/api/../v1/stats', '/api/%2e%2e/v1/stats', '/api/..%2fmetrics', '/socket.io/..;/metrics', `${OPERATORS}/v1/stats`, '/anything'];
    for (const path of closed) {
      const { status, text } = await exchange(PUBLIC, 'GET', path, { headers: key() });
      assert.ok(status === 404 || status === 400, `expected GET ${path} to be refused, got ${status}: ${text.slice(0, 200)}`);
      assert.doesNotMatch(text, /switchboard_|"connections"|openapi/, `expected nothing of the API from GET ${path}`);
    }
    for (const host of ['haproxy:8081', 'switchboard:9000', '127.0.0.1:9000']) {
      const { status } = await exchange(PUBLIC, 'GET', '/v1/stats', { headers: { ...key(), host } });
      assert.equal(status, 404, `expected /v1/stats to be refused for Host ${host}`);
    }
  });

  test('nodes have none of it on the port that clients are led to', async () => {
    for (const { NetworkSettings } of await containers('switchboard')) {
      const base = `http://${NetworkSettings.Networks[`${PROJECT}_front`].IPAddress}:3000`;
      for (const path of ['/v1/stats', '/metrics', '/healthz', '/readyz']) {
        assert.equal((await exchange(base, 'GET', path, { headers: key() })).status, 404, `GET ${path} of a node's public port`);
      }
    }
  });

  test('is /socket.io/, /api/ and /', async () => {
    const handshake = await exchange(PUBLIC, 'GET', '/socket.io/?EIO=4&transport=polling');
    assert.deepEqual([handshake.status, handshake.text[0]], [200, '0']);
    assert.match(String(handshake.headers['set-cookie']), /^switchboard_node=[0-9a-f]+;.*HttpOnly/i);
    const refresh = await exchange(PUBLIC, 'POST', '/api/refresh-token', { headers: { 'content-length': 0 } });
    assert.equal(refresh.status, 401);
    assert.match(refresh.headers['content-type'], /problem\+json/, 'expected the answer of a node');
    // The balancer's own 404 is "not found" and a line break.
    assert.notEqual((await exchange(PUBLIC, 'GET', '/')).text, 'not found\n', 'expected / to be a node\'s to answer');
  });

  test('operators have /v1 with the key, and nothing else', async () => {
    assert.equal((await exchange(OPERATORS, 'GET', '/v1/stats')).status, 401);
    assert.equal((await exchange(OPERATORS, 'GET', '/v1/stats', { headers: key() })).status, 200);
    for (const path of ['/metrics', '/healthz', '/readyz', '/', '/v1x', '/socket.io/?EIO=4&transport=polling']) {
      assert.equal((await exchange(OPERATORS, 'GET', path, { headers: key() })).status, 404, `GET ${path} of the operators' port`);
    }
  });
});

describe('the balancer\'s cookie', () => {
  test('does not reach a node, where a cookie is a credential', async () => {
    // With the cookie of a node, from another page: a node that saw a cookie would refuse the foreign Origin with 403.
    const { headers } = await exchange(PUBLIC, 'GET', '/socket.io/?EIO=4&transport=polling');
    const cookie = headers['set-cookie'][0].split(';')[0];
    const { status } = await exchange(PUBLIC, 'GET', '/socket.io/?EIO=4&transport=polling', { headers: { cookie, origin: 'https://elsewhere.example' } });
    assert.equal(status, 200);
  });
});

after(async () => {
  const left = await operators();
  await eventually('nobody is left behind', async () => assert.equal((await left.stats()).connections, 0), { ms: seconds(40), every: 250 });
});
