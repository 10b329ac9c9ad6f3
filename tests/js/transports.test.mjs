// Contract 2: WebSocket, HTTP long-polling, and the way from one to the other, as the stock client goes it.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { fileURLToPath } from 'node:url';
import { connect, connected, eventually, exchange, onBothRegistries, parseMetrics, Polling, RawSocket, someone, test, token, within } from './harness.mjs';

onBothRegistries((world) => {
  for (const transport of ['websocket', 'polling']) {
    test(`${transport} only: ready, an event, an ack, a disconnect`, async () => {
      const user = someone(transport);
      const client = connect(world.door, { user, transports: [transport] }).answer('question', 'answer');
      await client.ready();
      assert.equal(client.socket.io.engine.transport.name, transport);
      assert.equal((await world.api.connection(client.id)).transport, transport, 'expected the API to show the transport');
      const data = { text: 'grüße 👋 \u2028 "quoted"', list: [1, 2.5, null, true], nested: { deep: { er: [] } } };
      assert.deepEqual(await world.api.send(user, 'news', data), { connections: 1, nodes: 1, unconfirmed: 0 });
      assert.deepEqual(await client.wait('news'), [data], 'expected the data to arrive unharmed');
      const asked = await world.api.send(user, 'question', null, { ack: { timeoutMs: 5000 } });
      assert.deepEqual(asked.acks, [{ connectionId: client.id, data: 'answer' }]);
      const done = await world.api.disconnect(user);
      assert.deepEqual(done, { disconnected: 1, nodes: 1, remaining: [] });
      await client.kicked(4500, 'Disconnected by an administrator');
    });

    test(`${transport}: a message of 500 KB goes through whole`, async () => {
      const user = someone('large');
      const client = await connected(world.door, { user, transports: [transport] });
      const data = Array.from({ length: 50000 }, (_, i) => `item-${String(i).padStart(5, '0')}`.slice(0, 10)).join('');
      assert.equal((await world.api.send(user, 'large', data)).connections, 1);
      const [got] = await client.wait('large');
      assert.ok(got === data, `expected all ${data.length} characters, got ${got?.length}`);
    });

    test(`${transport}: a hundred events come in the order they were sent`, async () => {
      const user = someone('order');
      const client = await connected(world.door, { user, transports: [transport] });
      for (let i = 0; i < 100; i += 1) await world.api.send(user, 'n', i);
      await client.wait('n', { nth: 100 });
      assert.deepEqual(client.seen.filter((entry) => entry.name === 'n').map((entry) => entry.args[0]), Array.from({ length: 100 }, (_, i) => i));
    });

    test(`${transport}: a client asked to reconnect comes back by itself`, async () => {
      const user = someone('back');
      const client = await connected(world.door, { user, transports: [transport] });
      const first = client.id;
      assert.equal((await world.api.disconnect(user, { code: 4003, reconnect: true })).disconnected, 1);
      const [how] = await client.wait('disconnect');
      assert.deepEqual(client.told(), { code: 4003, reason: 'Reconnect requested', reconnect: true });
      assert.equal(how, 'transport close', 'expected a closed transport');
      await client.ready({ nth: 2 });
      assert.notEqual(client.id, first, 'expected the returned client to have another connectionId');
      assert.deepEqual((await world.api.user(user)).connections.map((one) => one.id), [client.id]);
    });
  }

  test('a polled attachment may have line breaks in its base64, as the Java client writes it', async () => {
    const session = await Polling.open(world.door.url);
    await session.connect({ token: token(someone('wrapped')) });
    const base64 = Buffer.alloc(100).toString('base64');
    const { status, text } = await session.post('451-7["upload",{"_placeholder":true,"num":0}]', `b${base64.slice(0, 76)}\n${base64.slice(76)}\n`);
    assert.equal(status, 200, text);
    await session.until(/^437\[\{.*"Unknown event"/);
  });

  test('a polling client that fetches everything is no slow consumer, whatever it is sent', async () => {
    const user = someone('counted');
    const client = await connected(world.door, { user, transports: ['polling'] });
    // Short on the wire, and much of it: what is counted as sent must not be more than what is counted as fetched.
    const data = Array.from({ length: 20_000 }, () => 0);
    for (let i = 1; i <= 40; i += 1) {
      await world.api.send(user, 'zeroes', data);
      await client.wait('zeroes', { nth: i });
    }
    assert.equal(client.count('disconnect'), 0, client.history().slice(-300));
  });

  test('polling first, then upgraded: the API shows websocket after it', async () => {
    const user = someone('upgrade');
    const client = connect(world.door, { user, transports: ['polling', 'websocket'] });
    const { connectionId } = await client.ready();
    await eventually('the stock client has upgraded to WebSocket', async () => client.socket.io.engine.transport.name === 'websocket');
    await eventually('the API shows the transport "websocket" after the upgrade', async () => {
      assert.equal((await world.api.connection(connectionId)).transport, 'websocket');
    });
    assert.equal(client.count('ready'), 1, 'expected the upgrade not to make a second connection');
    assert.equal((await world.api.user(user)).connections.length, 1, 'expected the upgrade not to make a second connection');
    await world.api.send(user, 'over', 'websocket');
    assert.deepEqual(await client.wait('over'), ['websocket']);
    await world.api.disconnect(user);
    await client.kicked(4500);
  });

  test('nothing sent during an upgrade is lost or doubled', async () => {
    const user = someone('during');
    const client = connect(world.door, { user, transports: ['polling', 'websocket'] });
    await client.ready();
    let sent = 0;
    await eventually('the stock client has upgraded to WebSocket', async () => {
      assert.equal((await world.api.send(user, 'n', sent)).connections, 1);
      sent += 1;
      return client.socket.io.engine.transport.name === 'websocket' && sent >= 20;
    }, { every: 0, ms: 15000 });
    await client.wait('n', { nth: sent });
    assert.deepEqual(client.seen.filter((entry) => entry.name === 'n').map((entry) => entry.args[0]), Array.from({ length: sent }, (_, i) => i));
  });

  test('the kicked client of a polling session gets DISCONNECT with the poll it has open', async () => {
    const user = someone('poll');
    const session = await Polling.open(world.door.url);
    await session.connect({ token: token(user) });
    const poll = session.until(/^41/);
    await world.api.disconnect(user, { reason: 'out' });
    await poll;
    const at = (pattern) => session.packets.findIndex((packet) => pattern.test(packet));
    assert.ok(at(/^42\["forceDisconnect",/) >= 0, `expected forceDisconnect before DISCONNECT, got ${session.packets}`);
    assert.ok(at(/^42\["forceDisconnect",/) < at(/^41/), `expected forceDisconnect before DISCONNECT, got ${session.packets}`);
    await session.refused();
  });

  test('the kicked client of a WebSocket gets DISCONNECT, then the TCP connection is closed', async () => {
    const user = someone('bytes');
    const raw = new RawSocket(world.door.url);
    await raw.connect({ token: token(user) });
    await world.api.disconnect(user, { reason: 'out' });
    await raw.until(/^42\["forceDisconnect",\{.*"code":4500/);
    await raw.until(/^41$/);
    await within(5000, 'the server closes the WebSocket of a kicked client', raw.closed);
  });

  test('a client asked to reconnect gets no DISCONNECT packet', async () => {
    const user = someone('bytes');
    const raw = new RawSocket(world.door.url);
    await raw.connect({ token: token(user) });
    await world.api.disconnect(user, { code: 4003, reconnect: true });
    await within(5000, 'the server closes the WebSocket', raw.closed);
    assert.ok(raw.packets.some((packet) => /^42\["forceDisconnect"/.test(packet)), `expected forceDisconnect, got ${raw.packets}`);
    assert.ok(!raw.packets.some((packet) => /^41/.test(packet)), 'expected no DISCONNECT packet: the stock client would stay away');
  });
});

test('the Engine.IO handshake says what the contract\'s defaults are', async ({ node }) => {
  const door = await node();
  const { handshake } = await Polling.open(door.url);
  assert.deepEqual(handshake.upgrades, ['websocket']);
  assert.deepEqual([handshake.pingInterval, handshake.pingTimeout, handshake.maxPayload], [25000, 20000, 1000000],
    'expected pingInterval, pingTimeout and maxPayload of the defaults (ping.interval 25s, ping.timeout 20s, limits.max_payload 1MB)');
  const raw = await new RawSocket(door.url).open();
  assert.deepEqual(raw.handshake.upgrades, [], 'expected no upgrades to be offered over WebSocket');
  assert.notEqual(raw.handshake.sid, handshake.sid);
});

test('the Engine.IO handshake follows the configuration', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_PING__INTERVAL: '7s', SWITCHBOARD_PING__TIMEOUT: '3s', SWITCHBOARD_LIMITS__MAX_PAYLOAD: '64KB' } });
  const { handshake } = await Polling.open(door.url);
  assert.deepEqual([handshake.pingInterval, handshake.pingTimeout, handshake.maxPayload], [7000, 3000, 64000]);
});

test('the first ping comes after ping.interval, and its pong is due only then', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_PING__INTERVAL: '3s', SWITCHBOARD_PING__TIMEOUT: '1s' } });
  const [raw, polls] = [await new RawSocket(door.url).open(), await Polling.open(door.url)];
  raw.ws.send('40/public,');
  await polls.post('40/public,');
  await Promise.all([raw, polls].map((client) => client.until(/^2$/)));
  for (const { packets } of [raw, polls]) {
    const at = (pattern) => packets.findIndex((packet) => pattern.test(packet));
    assert.ok(at(/^42\/public,\["ready"/) >= 0 && at(/^42\/public,\["ready"/) < at(/^2$/), `expected the ping after all else, got ${packets}`);
    assert.ok(!packets.includes('6'), `expected no noop in place of a ping, got ${packets}`);
  }
});

test('the client\'s published bundle is served to pages, with an ETag; without one they are told what to set', async ({ node }) => {
  const dist = fileURLToPath(new URL('node_modules/socket.io-client/dist', import.meta.url));
  const door = await node({ env: { SWITCHBOARD_TRANSPORT__CLIENT_BUNDLE: dist } });
  for (const file of ['socket.io.js', 'socket.io.min.js', 'socket.io.esm.min.js', 'socket.io.msgpack.min.js', 'socket.io.js.map']) {
    const { status, headers, text } = await exchange(door.url, 'GET', `/socket.io/${file}`);
    assert.equal(status, 200, file);
    assert.ok(text === readFileSync(`${dist}/${file}`, 'utf8'), `expected ${file} as it is`);
    assert.match(headers['content-type'], file.endsWith('.map') ? /^application\/json/ : /^application\/javascript/);
    assert.equal(headers['cache-control'], 'public, max-age=0');
    const again = await exchange(door.url, 'GET', `/socket.io/${file}`, { headers: { 'if-none-match': headers.etag } });
    assert.deepEqual([again.status, again.text, again.headers.etag], [304, '', headers.etag]);
  }
  for (const path of ['/socket.io/package.json', '/socket.io/..%2Fpackage.json', '/socket.io/%2e%2e%2fpackage.json']) assert.equal((await exchange(door.url, 'GET', path)).status, 404, path);
  await connected(door, { user: someone('page') });
  const without = await exchange((await node()).url, 'GET', '/socket.io/socket.io.js');
  assert.equal(without.status, 404);
  assert.match(without.text, /transport\.client_bundle/);
});

test('a subprotocol that the client offers is taken: the first, as the JavaScript server does', async ({ node }) => {
  const door = await node();
  const client = connect(door, { user: someone('chat'), protocols: ['chat', 'other'] });
  await client.ready();
  assert.equal(client.socket.io.engine.transport.ws.protocol, 'chat');
  const upgraded = connect(door, { user: someone('chat'), protocols: ['chat'], transports: ['polling', 'websocket'] });
  await upgraded.ready();
  await eventually('it has upgraded', () => assert.equal(upgraded.socket.io.engine.transport.ws?.protocol, 'chat'));
});

test('a polling client whose GET is cut is gone at once, and is no slow consumer', async ({ node }) => {
  // So long that nothing else would find it.
  const door = await node({ env: { SWITCHBOARD_LIMITS__WRITE_DEADLINE: '10m', SWITCHBOARD_PING__TIMEOUT: '10m' } });
  const user = someone('page');
  const session = await Polling.open(door.url);
  await session.connect({ token: token(user) });
  const { hostname, port } = new URL(door.url);
  const poll = net.connect(port, hostname);
  poll.write(`GET ${session.path} HTTP/1.1\r\nhost: ${hostname}\r\n\r\n`, () => poll.destroy());
  await eventually('it is offline', async () => assert.equal((await door.api.user(user)).online, false));
  const metrics = parseMetrics((await door.api.request('GET', '/metrics')).text);
  assert.equal(metrics.value('switchboard_disconnects_total', { reason: 'slow_consumer' }), 0);
  assert.equal(metrics.value('switchboard_messages_dropped_total', { reason: 'slow_consumer' }), 0);
  assert.equal(metrics.value('switchboard_disconnects_total', { reason: 'transport_close' }), 1);
});

test('clients of another protocol version are counted, and the log says what they need', async ({ node }) => {
  const door = await node();
  const answer = await exchange(door.url, 'GET', '/socket.io/?EIO=3&transport=polling', { headers: { 'user-agent': 'old/2.4' } });
  assert.equal(answer.status, 400);
  await door.line(/another version of the protocol.*version="?3"?.*old\/2\.4/);
  const metrics = parseMetrics((await door.api.request('GET', '/metrics')).text);
  assert.equal(metrics.value('switchboard_connect_errors_total', { reason: 'protocol' }), 1);
});

test('nothing keeps the answers to polls', async ({ node }) => {
  const door = await node();
  const session = await Polling.open(door.url);
  await session.post('40/public,');
  assert.equal((await session.poll()).headers['cache-control'], 'no-store');
  assert.equal((await exchange(door.url, 'GET', '/socket.io/?EIO=4&transport=polling')).headers['cache-control'], 'no-store');
});

test('a message beyond the limit ends a WebSocket with 1009, and the log says why', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__MAX_PAYLOAD: '64KB' } });
  const raw = new RawSocket(door.url);
  await raw.connect({ token: token(someone('large')) });
  raw.ws.send(`42["x","${'a'.repeat(70_000)}"]`);
  assert.equal(await within(5000, 'the server closes the WebSocket', raw.closed), 1009);
  await door.line(/limits\.max_payload.*message_too_large/);
});

test('Engine.IO requests that make no sense are refused with 400 and its codes', async ({ node }) => {
  const door = await node();
  const cases = [
    ['an unknown transport', '/socket.io/?EIO=4&transport=carrier-pigeon', 0],
    ['an unknown session', '/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA', 1],
    ['a session id that is not one', '/socket.io/?EIO=4&transport=polling&sid=%00%2F..%2F', 1],
    ['protocol version 3', '/socket.io/?EIO=3&transport=polling', 5],
  ];
  for (const [what, path, code] of cases) {
    const answer = await exchange(door.url, 'GET', path);
    assert.equal(answer.status, 400, `expected 400 to ${what}, got ${answer.status}: ${answer.text}`);
    assert.equal(answer.json?.code, code, `expected Engine.IO's code ${code} for ${what}, got ${answer.text}`);
  }
  await connected(door, { user: 'still-fine' });
});

test('a client that stops answering pings is out of the registry', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_PING__INTERVAL: '500ms', SWITCHBOARD_PING__TIMEOUT: '500ms' } });
  const user = someone('silent');
  const session = await Polling.open(door.url);
  await session.connect({ token: token(user) });
  await eventually('a polling client that fell silent is gone after ping.interval and ping.timeout', async () => {
    assert.equal((await door.api.user(user)).online, false);
  }, { ms: 10000 });
  await session.refused();
});
