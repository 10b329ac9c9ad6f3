// deploy/haproxy/haproxy.cfg as it is shipped, but for addresses: Debian's HAProxy in front of a server that says what it was told.
// The compose file's tests have the rest of it.

import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, eventually, test } from '../js/harness.mjs';
import { Balancer } from './balancer.mjs';

const world = {};

/** Two nodes that answer with the headers that they got, and their name; hold the answer for as long as the path says so. */
const servers = ['a', 'b'].map((name) => http.createServer((request, response) => {
  response.setHeader('x-node', name);
  if (request.url.includes('hold')) world.held.push(response);
  else response.end(JSON.stringify(request.headers));
}));

before(async () => {
  world.held = [];
  await Promise.all(servers.map((server) => new Promise((listening) => server.listen(0, '127.0.0.1', listening))));
  const env = { SWITCHBOARD_CONNECTIONS_PER_ADDRESS: '20', SWITCHBOARD_HANDSHAKES_PER_ADDRESS: '10', SWITCHBOARD_FRONT: '192.0.2.1 127.0.0.2' };
  world.haproxy = await Balancer.start(servers.map((server) => server.address().port), { env });
  await eventually('HAProxy answers', async () => {
    assert.ok(!world.haproxy.ended, world.haproxy.ended && world.haproxy.epitaph());
    assert.equal((await ask('/api/up', '127.0.0.9')).status, 200);
  }, { ms: 20000 });
});

after(async () => {
  await world.haproxy?.kill();
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
});

/** A request from an address of the loopback. */
function ask(path, localAddress, headers = {}) {
  return new Promise((resolve, reject) => {
    http.get(`${world.haproxy.url}${path}`, { localAddress, headers, agent: false }, (answer) => {
      let text = '';
      answer.on('data', (part) => (text += part)).on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, text }));
    }).on('error', reject);
  });
}

test('what ends TLS in front is believed, and nobody else', async () => {
  const forged = { 'x-forwarded-proto': 'https', 'x-forwarded-for': '6.6.6.6, 7.7.7.7', forwarded: 'for=6.6.6.6', 'x-real-ip': '6.6.6.6' };
  const told = async (...from) => {
    const headers = JSON.parse((await ask('/api/told', ...from)).text);
    assert.equal(headers.forwarded ?? headers['x-real-ip'], undefined);
    return [headers['x-forwarded-for'], headers['x-forwarded-proto']];
  };
  assert.deepEqual(await told('127.0.0.2', forged), ['7.7.7.7', 'https']);
  assert.deepEqual(await told('127.0.0.2', { ...forged, 'x-forwarded-proto': 'http' }), ['7.7.7.7', 'http']);
  assert.deepEqual(await told('127.0.0.3', forged), ['127.0.0.3', 'http']);
});

test('an address that shakes hands too often gets 503, its sessions go on, and others are let in', async () => {
  const answers = [];
  for (let i = 0; i < 20; i += 1) answers.push((await ask('/socket.io/?EIO=4', '127.0.0.4')).status);
  assert.deepEqual([answers.slice(0, 5), answers.slice(-5)], [Array(5).fill(200), Array(5).fill(503)]);
  assert.equal((await ask('/socket.io/?EIO=4&sid=a', '127.0.0.4')).status, 200);
  assert.equal((await ask('/socket.io/?EIO=4', '127.0.0.5')).status, 200);
  // By the client's address where it is the front that asks.
  assert.equal((await ask('/socket.io/?EIO=4', '127.0.0.2', { 'x-forwarded-for': '127.0.0.4' })).status, 503);
  assert.equal((await ask('/socket.io/?EIO=4', '127.0.0.2', { 'x-forwarded-for': '127.0.0.6' })).status, 200);
});

test('what only looks like a session counts as a handshake', async () => {
  const forms = ['/socket.io/?EIO=4&SID=a', '/socket.io/?EIO=4&x=;sid=a', '/socket.io/?EIO=4&x=?sid=a', '/socket.io/?EIO=4&asid=a', '/socket.io/?EIO=4#&sid=a', '/api/refresh-token?sid=a'];
  for (const [i, form] of forms.entries()) {
    const answers = [];
    for (let n = 0; n < 20; n += 1) answers.push((await ask(form, `127.0.1.${i + 1}`)).status);
    // HAProxy 2.6 and newer refuse a # by themselves.
    assert.deepEqual(answers.slice(-5), Array(5).fill(form.includes('#') && answers[0] === 400 ? 400 : 503), `${form}: ${answers}`);
  }
  const polls = [];
  for (let n = 0; n < 20; n += 1) polls.push((await ask('/socket.io/?sid=a&EIO=4', '127.0.1.99')).status);
  assert.deepEqual(polls, Array(20).fill(200));
});

test('an address that holds too many at once gets 503', async () => {
  const polls = Array.from({ length: 21 }, () => ask('/socket.io/?EIO=4&sid=hold', '127.0.0.7'));
  await eventually('all are held', () => world.held.length === 21);
  assert.equal((await ask('/socket.io/?EIO=4', '127.0.0.7')).status, 503);
  assert.equal((await ask('/socket.io/?EIO=4', '127.0.0.8')).status, 200);
  for (const response of world.held) response.end();
  await Promise.all(polls);
  assert.equal((await ask('/socket.io/?EIO=4', '127.0.0.7')).status, 200);
});

test('a client without cookies is held by its address and user agent, one with them by the cookie, and a new WebSocket by nothing', async () => {
  const node = async (...from) => (await ask(...from)).headers['x-node'];
  const [nodes, sockets] = [new Set(), new Set()];
  for (let i = 1; i <= 16; i += 1) {
    const from = [`127.0.2.${i}`, { 'user-agent': `agent ${i}` }];
    const first = await node('/socket.io/?EIO=4&transport=polling', ...from);
    for (const transport of ['polling', 'polling', 'websocket']) assert.equal(await node(`/socket.io/?EIO=4&transport=${transport}&sid=a`, ...from), first);
    nodes.add(first);
  }
  assert.deepEqual([...nodes].sort(), ['a', 'b'], 'expected clients on both nodes');
  const [home, away] = [['127.0.2.1', {}], ['127.0.2.2', {}]];
  const { headers } = await ask('/socket.io/?EIO=4&transport=polling', ...home);
  const cookie = headers['set-cookie'][0].split(';')[0];
  assert.equal(await node('/socket.io/?EIO=4&transport=polling&sid=a', away[0], { cookie, 'user-agent': 'moved' }), headers['x-node']);
  for (let i = 0; i < 8; i += 1) {
    const answer = await ask('/socket.io/?EIO=4&transport=websocket', '127.0.2.99');
    sockets.add(answer.headers['x-node']);
  }
  assert.equal(sockets.size, 2);
  const told = JSON.parse((await ask('/socket.io/?EIO=4&transport=websocket', '127.0.2.98', { cookie })).text);
  assert.equal(told.cookie, undefined, 'expected the cookie of the balancer not to reach a node');
});
