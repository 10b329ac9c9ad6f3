// deploy/nginx.conf as it is shipped, but for addresses and paths: Debian's nginx, three real nodes, the stock client.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  Api, API_KEY, BINARY, JWT_SECRET, Node, Running, after, before, closeClients, connect, connected, eventually, exchange, freePort, nodes, someone,
  startNode, startRedis, test, token, writeScratch,
} from '../js/harness.mjs';

const CONFIG = fileURLToPath(new URL('../../deploy/nginx.conf', import.meta.url));
const NAMES = ['a', 'b', 'c'];
const world = { nodes: {} };

/** Puts `to` in place of `from`, which must be there. */
function put(text, from, to) {
  assert.ok(text.includes(from), `expected ${from} in deploy/nginx.conf`);
  return text.replaceAll(from, to);
}

function configuration() {
  let text = readFileSync(CONFIG, 'utf8');
  NAMES.forEach((name, i) => {
    const ports = { 3000: world.nodes[name].port, 3001: new URL(world.nodes[name].internalUrl).port };
    for (const [port, own] of Object.entries(ports)) text = put(text, `10.0.0.1${i + 1}:${port}`, `127.0.0.1:${own}`);
    text = put(text, `10\\.0\\.0\\.1${i + 1}:3000`, `127\\.0\\.0\\.1:${world.nodes[name].port}`);
  });
  assert.doesNotMatch(text.replace(/^ *#.*$/gm, ''), /10\.0\.0\./, 'an address in deploy/nginx.conf that is not one of the nodes');
  // What ends TLS in front.
  text = put(text, '# 10.0.0.5/32 1;', '127.0.0.2/32 1;');
  text = put(text, '# set_real_ip_from 10.0.0.5/32;', 'set_real_ip_from 127.0.0.2/32;');
  text = put(text, 'listen 80;', `listen 127.0.0.1:${world.port};`);
  text = put(text, 'listen 127.0.0.1:8081;', `listen 127.0.0.1:${world.innerPort};`);
  text = put(text, '/run/nginx.pid', path.join(world.folder, 'pid'));
  text = put(text, '/var/log/nginx/', `${world.folder}/`);
  // Limits of the machine that the test runs on.
  text = put(text, 'worker_rlimit_nofile 200000;', '');
  text = put(text, 'worker_connections 65536;', 'worker_connections 512;');
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path ${world.folder}/${kind};`);
  return put(text, 'http {', `http {\n${temporary.join('\n')}`);
}

const settings = { SWITCHBOARD_TRUSTED_PROXIES: '127.0.0.1/32', SWITCHBOARD_DRAIN__DELAY: '8s', SWITCHBOARD_DRAIN__WINDOW: '500ms' };

before(async () => {
  world.folder = mkdtempSync(path.join(os.tmpdir(), 'switchboard-nginx-'));
  world.redis = await startRedis();
  await Promise.all(NAMES.map(async (name) => {
    world.nodes[name] = await startNode({ redis: world.redis, name, internal: true, env: settings });
  }));
  world.port = await freePort();
  world.innerPort = await freePort();
  const file = writeScratch('conf', configuration());
  world.nginx = new Running('nginx', ['-p', world.folder, '-c', file, '-e', path.join(world.folder, 'error.log'), '-g', 'daemon off;'], { name: 'nginx' });
  world.url = `http://127.0.0.1:${world.port}`;
  world.api = new Api(`http://127.0.0.1:${world.innerPort}`, API_KEY);
  await eventually('nginx passes on what backends ask', async () => {
    assert.ok(!world.nginx.ended, `it ended: ${world.nginx.ended && world.nginx.epitaph()}`);
    assert.equal((await world.api.stats()).nodes, 3);
  }, { ms: 30000 });
});

after(async () => {
  world.nginx?.signal('SIGTERM');
  await world.nginx?.end({ ms: 20000 }).catch(() => world.nginx.kill());
  await Promise.all(Object.values(world.nodes).map((node) => node.kill()));
  await world.redis?.stop();
  rmSync(world.folder, { recursive: true, force: true });
});

const POLLING = { transports: ['polling'], upgrade: false };
const agent = (name) => ({ 'user-agent': `browser-${name}` });

/** Sends to `user` `times` times and holds its client to having got every one of them, on the session it had. */
async function stays(client, user, { times = 4 } = {}) {
  const [ready, before] = [client.count('ready'), client.count('disconnect')];
  for (let n = 1; n <= times; n += 1) {
    const seen = client.count('news');
    const { connections } = await world.api.send(user, 'news', n);
    assert.equal(connections, 1, `expected one connection of ${user}; ${client.label} got ${client.history()}`);
    await client.wait('news', { nth: seen + 1, ms: 30000 });
    // The other way is a POST, which has to reach the same node.
    await client.granted('devices');
  }
  assert.deepEqual([client.count('ready'), client.count('disconnect')], [ready, before], `expected ${client.label} to stay on its session; it got ${client.history()}`);
}

/** Where the last ready of a client was. */
const nodeOf = (client) => client.seen.filter(({ name }) => name === 'ready').at(-1).args[0].nodeId;

test('long-polling of clients with and without cookies stays on its node', { ms: 180000 }, async () => {
  const crowd = await Promise.all(Array.from({ length: 16 }, async (_, i) => {
    const user = someone();
    const client = await connected(world.url, { user, ...POLLING, withCredentials: i % 2 === 0, extraHeaders: agent(user) });
    return { user, client };
  }));
  await Promise.all(crowd.map(({ user, client }) => stays(client, user)));
  const used = new Set(crowd.map(({ client }) => nodeOf(client)));
  assert.ok(used.size > 1, `expected clients of one address to spread over the nodes, all are on ${[...used]}`);
});

test('the cookie decides, and is set when it is not there', { ms: 90000 }, async () => {
  const open = (cookie, more = '') => exchange(world.url, 'GET', `/socket.io/?EIO=4&transport=polling${more}`, { headers: { ...agent('one'), ...(cookie && { cookie }) } });
  for (const name of NAMES) {
    const user = someone();
    const client = await connected(world.url, { user, ...POLLING, extraHeaders: { ...agent('one'), cookie: `switchboard_node=${name}` } });
    assert.equal(nodeOf(client), name);
    await stays(client, user, { times: 1 });
    assert.equal((await open(`switchboard_node=${name}`)).headers['set-cookie'], undefined, 'a cookie that holds is not set again');
  }
  const cookies = (await open()).headers['set-cookie'];
  assert.equal(cookies?.length, 1);
  assert.match(cookies[0], /^switchboard_node=[abc]; Path=\/socket\.io\/; HttpOnly; SameSite=Lax$/);
  assert.match((await open('switchboard_node=z')).headers['set-cookie']?.[0] ?? '', /^switchboard_node=[abc];/, 'one that names no node is replaced');
  assert.equal((await open(undefined, '&sid=AAAAAAAAAAAAAAAAAAAAAA')).headers['set-cookie'], undefined, 'an answer about a session moves nobody');
});

test('polling becomes a WebSocket on the same node', { ms: 90000 }, async () => {
  for (const name of NAMES) {
    const user = someone();
    const client = await connected(world.url, { user, transports: ['polling', 'websocket'], extraHeaders: { ...agent('one'), cookie: `switchboard_node=${name}` } });
    await eventually('the upgrade', () => client.socket.io.engine.transport.name === 'websocket', { ms: 30000 });
    assert.equal(nodeOf(client), name);
    await stays(client, user, { times: 2 });
  }
});

test('WebSockets of one address spread over all nodes', { ms: 90000 }, async () => {
  const crowd = await Promise.all(Array.from({ length: 15 }, async () => {
    const user = someone();
    return { user, client: await connected(world.url, { user }) };
  }));
  await Promise.all(crowd.map(({ user, client }) => stays(client, user, { times: 1 })));
  assert.deepEqual([...new Set(crowd.map(({ client }) => nodeOf(client)))].sort(), NAMES);
});

test('nothing of the operators is public', async () => {
  for (const way of ['/v1/stats', '/v1', '/v1/openapi.json', '/metrics', '/healthz', '/readyz', '/', '/socket.io/../v1/stats', '/socket.io/%2e%2e/v1/stats', '/socket.io/..%2fv1/stats',
    '/api/../metrics', '//v1/stats', '/api/%2e%2e/v1/stats', '/V1/stats']) {
    const { status, text } = await exchange(world.url, 'GET', way, { headers: { authorization: `Bearer ${API_KEY}` } });
    // By nginx itself, whatever the nodes would say.
    assert.match(`${status} ${text}`, /^404 <html>[^]*nginx/, `GET ${way}: ${status} ${text.slice(0, 200)}`);
  }
  assert.equal((await world.api.request('GET', '/v1/stats', { key: null })).status, 401);
  for (const way of ['/metrics', '/socket.io/?EIO=4&transport=polling', '/readyz']) {
    assert.equal((await exchange(world.api.base, 'GET', way)).status, 404, `the backends' door, ${way}`);
  }
});

test('/api/ reaches the nodes', async () => {
  const user = someone();
  const { refreshToken } = await world.api.openSession(user);
  const answer = await exchange(world.url, 'POST', '/api/refresh-token', { headers: { cookie: `refreshToken=${refreshToken}`, 'content-length': 0, origin: world.url } });
  assert.equal(answer.status, 200, answer.text);
  assert.ok(answer.json.token);
});

test("a connection has its client's address, whatever the client says", async () => {
  for (const transports of [['polling'], ['websocket']]) {
    const user = someone();
    const from = new http.Agent({ localAddress: '127.0.0.9' });
    const forged = { 'x-forwarded-for': '6.6.6.6', 'x-real-ip': '6.6.6.6', forwarded: 'for=6.6.6.6' };
    await connected(world.url, { user, transports, agent: from, extraHeaders: forged });
    const { connections } = await world.api.user(user);
    assert.deepEqual(connections.map(({ remoteAddr, transport }) => [remoteAddr, transport]), [['127.0.0.9', transports[0]]]);
  }
});

test('a drained node sends its clients to the others, and they stay there when it is back', { ms: 240000 }, async ({ owned }) => {
  const gone = world.nodes.a;
  const join = async (more) => {
    const user = someone();
    const client = await connected(world.url, { user, token: token(user), reconnectionDelay: 50, reconnectionDelayMax: 500, ...more });
    return { user, client };
  };
  const there = [];
  // Stock clients that keep cookies, until some are on the node; which one a user agent leads to is the hash's business.
  for (let n = 0; there.length < 3 && n < 60; n += 1) {
    const one = await join({ ...POLLING, withCredentials: true, extraHeaders: agent(`drained-${n}`) });
    if (nodeOf(one.client) === 'a') there.push(one);
    else one.client.socket.close();
  }
  assert.ok(there.length > 0, 'expected one of 60 user agents to lead to each node');
  for (let n = 0; n < 6; n += 1) there.push(await join({}));
  const moved = there.filter(({ client }) => nodeOf(client) === 'a');

  gone.signal('SIGTERM');
  await eventually('the node is not ready', async () => (await gone.api.request('GET', '/readyz', { key: null })).status === 503, { ms: 30000 });
  // While it waits (drain.delay) newcomers who have its cookie are passed on, with another cookie, and those it has are served.
  for (let n = 0; n < 3; n += 1) {
    const { status, headers } = await exchange(world.url, 'GET', '/socket.io/?EIO=4&transport=polling', { headers: { cookie: 'switchboard_node=a' } });
    assert.equal(status, 200);
    assert.match(headers['set-cookie']?.[0] ?? '', /^switchboard_node=[bc];/);
  }
  for (const { user, client } of moved) await stays(client, user, { times: 1 });
  assert.deepEqual(await gone.end({ ms: 60000 }), { code: 0, signal: null });
  for (const { client } of moved) await client.ready({ nth: 2, ms: 60000 });
  for (const { user, client } of moved) {
    assert.notEqual(nodeOf(client), 'a');
    await stays(client, user, { times: 2 });
  }

  const line = ['serve', '--listen', `127.0.0.1:${gone.port}`, '--internal-listen', new URL(gone.internalUrl).host, '--redis-url', world.redis.url, '--node-id', 'a'];
  const back = new Node(BINARY, line, { env: { SWITCHBOARD_JWT_SECRET: JWT_SECRET, SWITCHBOARD_API_KEY: API_KEY, ...settings }, name: 'a' });
  nodes.add(back);
  world.nodes.a = Object.assign(back, { url: gone.url, internalUrl: gone.internalUrl });
  await back.line(/listening on/);
  await eventually('newcomers reach it again', async () => {
    const client = connect(world.url, { user: someone() });
    await client.ready({ ms: 20000 });
    const hit = nodeOf(client) === 'a';
    client.socket.close();
    return hit;
  }, { ms: 60000 });
  // Their hash leads to it again; their cookie does not.
  for (const { user, client } of moved) await stays(client, user);
});

test('a node that is killed takes nobody along', { ms: 120000 }, async () => {
  const user = someone();
  const client = await connected(world.url, { user, ...POLLING, withCredentials: true, reconnectionDelay: 50, reconnectionDelayMax: 500 });
  const name = nodeOf(client);
  await world.nodes[name].kill();
  await client.ready({ nth: 2, ms: 60000 });
  assert.notEqual(nodeOf(client), name);
  await eventually('the dead connection is out of the answers', async () => (await world.api.user(user)).connections.length === 1, { ms: 60000, every: 250 });
  await stays(client, user);
});

/** A request of a client's, or of what ends TLS in front of this nginx, by the address it comes from. */
const ask = (path, { localAddress = '127.0.0.1', headers = {} } = {}) => new Promise((resolve, reject) => {
  http.get(`${world.url}${path}`, { localAddress, headers, agent: false }, (answer) => resolve(answer.resume())).on('error', reject);
});

test('what ends TLS in front is believed, and nobody else', async () => {
  const headers = { 'x-forwarded-proto': 'https', 'x-forwarded-for': '6.6.6.6, 7.7.7.7' };
  const handshake = (localAddress) => ask('/socket.io/?EIO=4&transport=polling', { localAddress, headers });
  assert.match((await handshake('127.0.0.2')).headers['set-cookie'][0], /; Secure$/);
  assert.doesNotMatch((await handshake('127.0.0.1')).headers['set-cookie'][0], /Secure/);
  for (const [localAddress, address] of [['127.0.0.2', '7.7.7.7'], ['127.0.0.1', '127.0.0.1']]) {
    const user = someone();
    const client = await connected(world.url, { user, extraHeaders: headers, localAddress });
    assert.equal((await world.api.user(user)).connections[0].remoteAddr, address);
    client.socket.close();
  }
});

test('an address that shakes hands too often gets 503, its sessions go on, and others are let in', async () => {
  const user = someone();
  const client = await connected(world.url, { user, ...POLLING, withCredentials: true, extraHeaders: agent('one') });
  const answers = [];
  for (let round = 0; round < 20; round += 1) {
    answers.push(...(await Promise.all(Array.from({ length: 50 }, () => ask('/socket.io/?EIO=4&transport=polling')))).map((answer) => answer.statusCode));
  }
  assert.ok(answers.filter((status) => status === 200).length >= 400, `the burst is let in; got ${answers}`);
  assert.ok(answers.includes(503), 'expected some to be refused');
  await stays(client, user, { times: 1 });
  const other = await ask('/socket.io/?EIO=4&transport=polling', { localAddress: '127.0.0.3' });
  assert.equal(other.statusCode, 200);
});

test('what only looks like a session counts as a handshake', { ms: 90000 }, async () => {
  const crowd = async (more, localAddress) => {
    const answers = [];
    for (let round = 0; round < 20; round += 1) {
      answers.push(...(await Promise.all(Array.from({ length: 50 }, () => ask(`/socket.io/?EIO=4&transport=polling${more}`, { localAddress })))));
    }
    // The nodes' own 503 has a Retry-After.
    return answers.filter(({ statusCode, headers }) => statusCode === 503 && !headers['retry-after']).length;
  };
  for (const [i, more] of ['&SID=a', '&asid=a', '&x=;sid=a', '#&sid=a'].entries()) {
    assert.ok((await crowd(more, `127.0.1.${i + 1}`)) > 0, `nginx let all of 1,000 handshakes with ${more} through`);
  }
  assert.equal(await crowd('&sid=a', '127.0.1.99'), 0);
});

test('no session id is in the log', async () => {
  closeClients();
  const log = readFileSync(path.join(world.folder, 'access.log'), 'utf8') + readFileSync(path.join(world.folder, 'error.log'), 'utf8');
  assert.ok(log.includes('/socket.io/'), 'expected an access log');
  assert.doesNotMatch(log, /sid=|EIO=4/);
});
