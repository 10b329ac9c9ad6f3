// Contract 16: the console, as it is served: its files, its policy, and who gets the key of development mode. What it does in a browser
// is tested in tests/console.

import assert from 'node:assert/strict';
import { Api, API_KEY, connect, connected, eventually, exchange, someone, test, token } from './harness.mjs';

const get = (node, path, headers) => exchange(node.internalUrl, 'GET', path, { headers });
const KINDS = { css: /^text\/css/, js: /^text\/javascript/, svg: /^image\/svg\+xml$/ };

/** Everything that the page loads, by its name in console/: what the document names, and what those files import. */
async function loaded(node) {
  const page = await get(node, '/console');
  const files = new Map();
  const names = [...page.text.matchAll(/(?:src|href)="console\/([^"]+)"/g)].map(([, name]) => name);
  for (const name of names) {
    if (files.has(name)) continue;
    const file = await get(node, `/console/${name}`);
    assert.equal(file.status, 200, `expected /console/${name} to be served`);
    files.set(name, file);
    names.push(...[...file.text.matchAll(/^import .* from '\.\/([^']+)'/gm)].map(([, other]) => other));
  }
  return [page, files];
}

test('the page and all that it loads come from the node, under a strict policy', async ({ node }) => {
  const door = await node();
  const [page, files] = await loaded(door);
  assert.equal(page.status, 200);
  assert.match(page.headers['content-type'], /^text\/html/);
  const policy = Object.fromEntries(page.headers['content-security-policy'].split('; ').map((one) => [one.split(' ')[0], one.split(' ').slice(1).join(' ')]));
  assert.deepEqual(policy, {
    'default-src': "'none'", 'script-src': "'self'", 'style-src': "'self'", 'img-src': "'self'", 'connect-src': "'self'",
    'base-uri': "'none'", 'form-action': "'none'", 'frame-ancestors': "'none'", 'require-trusted-types-for': "'script'", 'trusted-types': "'none'",
  });
  assert.ok(files.size > 10, `expected the page's files to be found, got ${[...files.keys()]}`);
  for (const [name, file] of [['the page', page], ...files]) {
    if (name !== 'the page') assert.match(file.headers['content-type'], KINDS[name.split('.').at(-1)], name);
    assert.equal(file.headers['x-content-type-options'], 'nosniff', name);
    assert.equal(file.headers['referrer-policy'], 'no-referrer', name);
    const elsewhere = file.text.replace(' xmlns="http://www.w3.org/2000/svg"', '').match(/(?:https?|wss?):\/\/\w[^\s'"]*|(?:src|href)="\/\/[^"]*|@import/g);
    assert.equal(elsewhere, null, `${name} names another host`);
    assert.doesNotMatch(file.text, / style=|<style|<script>| on\w+="|innerHTML|eval\(/, `${name} has something in it that the policy refuses`);
  }
  for (const nowhere of ['/console/nothing.js', '/console/..%2Fmod.rs', '/console/index.html']) {
    assert.equal((await get(door, nowhere)).status, 404, nowhere);
  }
  const slash = await get(door, '/console/');
  assert.equal(new URL(slash.headers.location, `${door.url}/console/`).pathname, '/console');
});

test('the console is on the listener of operators alone, and may connect to that of clients', async ({ node }) => {
  const door = await node({ internal: true });
  assert.equal((await exchange(door.url, 'GET', '/console')).status, 404);
  const page = await get(door, '/console', { host: `ops.test:${new URL(door.internalUrl).port}` });
  assert.match(page.headers['content-security-policy'], new RegExp(`connect-src 'self' ws://ops\\.test:${door.port} wss://ops\\.test:${door.port};`));
  const { json } = await get(door, '/console/settings');
  assert.deepEqual(json, { path: '/socket.io', port: door.port });
});

test('a key learns what it opens, and none opens nothing', async ({ node }) => {
  const keys = ['read', 'send', 'disconnect'].map((scope) => `[[api.keys]]\nname = "only-${scope}"\nkey = "only-${scope}-0123456789"\nscopes = ["${scope}"]\n`);
  const door = await node({ config: keys.join('\n'), name: 'desk' });
  const me = async (key) => (await door.api.request('GET', '/v1/me', { key })).json;
  const { version, ...all } = await me(API_KEY);
  assert.deepEqual(all, { name: 'key:default', scopes: ['read', 'send', 'disconnect', 'admin'], nodeId: 'desk' });
  assert.match(version, /^\d+\.\d+\.\d+/);
  for (const scope of ['read', 'send', 'disconnect']) {
    assert.deepEqual((await me(`only-${scope}-0123456789`)).scopes, [scope]);
  }
  const admin = someone('admin');
  assert.deepEqual(await me(token(admin, { role: 'admin' })), { ...all, version, name: `jwt:${admin}` });
  for (const [key, status, code] of [[null, 401, 'unauthorized'], ['wrong', 401, 'unauthorized'], [token(someone()), 403, 'forbidden']]) {
    const refused = await door.api.request('GET', '/v1/me', { key });
    assert.deepEqual([refused.status, refused.json.code], [status, code], `${key}`);
    assert.ok(refused.json.detail, 'expected the page to be told why');
  }
});

test('a configured node gives nobody a key, and shows nothing at /', async ({ node }) => {
  const door = await node();
  assert.equal((await get(door, '/')).status, 404);
  assert.deepEqual((await get(door, '/console/settings')).json, { path: '/socket.io', port: null });
});

test('in development mode / leads to the console, which gets the key, and no other page does', async ({ node }) => {
  const door = await node({ bare: true });
  const first = await get(door, '/');
  assert.equal(first.status, 307);
  assert.equal(first.headers.location, '/console');
  await door.line(/Open the console/);
  assert.ok(door.lines.includes(`  ${door.url}/`), `expected the printed text to name ${door.url}/`);

  const keyFor = async (headers) => (await get(door, '/console/settings', headers)).json.apiKey;
  const key = await keyFor({ 'sec-fetch-site': 'same-origin' });
  assert.ok(door.log.includes(key), 'expected the key that is printed');
  await new Api(door.url, key).ok('GET', '/v1/stats');
  assert.equal(await keyFor({ host: `localhost:${door.port}` }), key);
  for (const stranger of [
    { host: `rebound.example:${door.port}`, 'sec-fetch-site': 'same-origin' },
    { origin: 'http://rebound.example' },
    { origin: `http://127.0.0.1:${door.port + 1}`, 'sec-fetch-site': 'same-site' },
    { 'sec-fetch-site': 'cross-site' },
    { 'x-forwarded-for': '192.0.2.7' },
  ]) {
    const answer = await get(door, '/console/settings', stranger);
    assert.deepEqual(answer.json, { path: '/socket.io', port: null }, JSON.stringify(stranger));
    assert.equal(answer.headers['access-control-allow-origin'], undefined);
  }
});

// --- GET /v1/tail -----------------------------------------------------------------------------------------------------

/** Follows a node's tail: `events` are `[name, data]`, the newest last. Resolves once the node has said hello. */
async function follow(node, owned, { key = API_KEY } = {}) {
  const stop = new AbortController();
  owned(() => stop.abort());
  const response = await fetch(`${node.internalUrl}/v1/tail`, { headers: { authorization: `Bearer ${key}` }, signal: stop.signal });
  const tail = { response, events: [], over: false, stop: () => stop.abort() };
  if (response.status !== 200) return tail;
  (async () => {
    let rest = '';
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
      const parts = (rest + text).split('\n\n');
      rest = parts.pop();
      for (const part of parts) {
        const field = (name) => new RegExp(`^${name}: (.*)$`, 'm').exec(part)?.[1];
        if (field('data')) tail.events.push([field('event'), JSON.parse(field('data'))]);
      }
    }
    tail.over = true;
  })().catch(() => {});
  await eventually('the tail says hello', () => assert.equal(tail.events[0]?.[0], 'hello'));
  return tail;
}

test('the tail tells who comes, what is sent and said, and who goes, without what is in it', async ({ node, owned }) => {
  const door = await node({ name: 'door' });
  const tail = await follow(door, owned);
  assert.match(tail.response.headers.get('content-type'), /^text\/event-stream/);
  assert.equal(tail.response.headers.get('x-accel-buffering'), 'no');
  assert.deepEqual(tail.events[0], ['hello', { nodeId: 'door', queue: 1024 }]);

  const user = someone();
  const client = await connected(door, { user });
  await door.api.send(user, 'hello', { secret: 'payload-of-the-test' });
  await client.ask('chat', 'payload-of-the-test');
  await door.api.ok('POST', '/v1/broadcast', { event: 'all', data: 1 });
  await connect(door, { token: 'no.token.ofanybody' }).refused('Invalid token');
  await door.api.disconnect(user);
  await eventually('the tail tells of all of it', () => assert.equal(tail.events.length, 7));

  const who = { connection: client.id, user, namespace: '/' };
  const told = tail.events.slice(1).map(([name, { at, ...rest }]) => {
    assert.equal(name, undefined);
    assert.ok(Math.abs(new Date(at) - Date.now()) < 60000, `expected a time of now, got ${at}`);
    return rest;
  });
  const of = (type) => told.filter((one) => one.type === type);
  assert.deepEqual(of('connected'), [{ type: 'connected', ...who, transport: 'websocket' }]);
  assert.deepEqual(of('message'), [
    { type: 'message', kind: 'user', to: user, namespace: '/', event: 'hello', bytes: 5 + JSON.stringify({ secret: 'payload-of-the-test' }).length, connections: 1 },
    { type: 'message', kind: 'broadcast', to: null, namespace: '/', event: 'all', bytes: 4, connections: 1 },
  ]);
  const [{ bytes, ...said }] = of('event');
  assert.deepEqual(said, { type: 'event', ...who, event: 'chat' });
  assert.ok(bytes > 19 && bytes < 60, `expected the size of the packet, got ${bytes}`);
  assert.deepEqual(of('refused'), [{ type: 'refused', namespace: '/', reason: 'invalid' }]);
  const [{ seconds, ...gone }] = of('disconnected');
  assert.deepEqual(gone, { type: 'disconnected', ...who, reason: 'disconnected' });
  assert.ok(seconds >= 0);
  const all = JSON.stringify(tail.events);
  assert.ok(!all.includes('payload-of-the-test') && !all.includes('no.token'), all);
});

test('the tail tells of rooms and of what carries a connection', async ({ node, owned }) => {
  const door = await node({ config: '[[namespaces]]\npath = "/"\nclient_rooms = ["chat:*"]\n' });
  const tail = await follow(door, owned);
  const user = someone();
  const client = await connected(door, { user, transports: ['polling', 'websocket'] });
  await client.ask('join', 'chat:1');
  await client.ask('leave', 'chat:1');
  await client.ask('join', 'chat:2');
  const of = (type) => tail.events.filter(([, one]) => one.type === type).map(([, { at, ...rest }]) => rest);
  const who = { connection: client.id, user, namespace: '/' };
  await eventually('it is told that the client has moved to a WebSocket', () => assert.deepEqual(of('upgraded'), [{ type: 'upgraded', ...who, transport: 'websocket' }]));
  client.socket.close();
  await eventually('a connection that goes leaves its rooms', () => {
    assert.deepEqual(of('joined'), ['chat:1', 'chat:2'].map((room) => ({ type: 'joined', ...who, room })));
    assert.deepEqual(of('left'), ['chat:1', 'chat:2'].map((room) => ({ type: 'left', ...who, room })));
  });
});

test('the tail asks for the scope read, has 16 places, and ends at a reload and with the node', async ({ node, owned }) => {
  const config = '[[api.keys]]\nname = "send"\nkey = "only-send-0123456789"\nscopes = ["send"]\n';
  const door = await node({ config });
  assert.equal((await follow(door, owned, { key: 'wrong' })).response.status, 401);
  assert.equal((await follow(door, owned, { key: 'only-send-0123456789' })).response.status, 403);

  const tails = await Promise.all(Array.from({ length: 16 }, () => follow(door, owned)));
  const refused = await follow(door, owned);
  assert.equal(refused.response.status, 503);
  assert.equal(refused.response.headers.get('retry-after'), '1');
  assert.equal((await refused.response.json()).code, 'overloaded');
  tails[0].stop();
  await eventually('the place is free again', async () => assert.equal((await follow(door, owned)).response.status, 200));

  door.reload();
  await eventually('a reload ends all of them', () => assert.ok(tails.slice(1).every((tail) => tail.over)));
  const last = await follow(door, owned);
  door.signal('SIGTERM');
  assert.equal((await door.end()).code, 0);
  await eventually('the last one ends with the node', () => assert.ok(last.over));
});
