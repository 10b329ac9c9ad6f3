// Contract 9: bounds on what one client can take.

import assert from 'node:assert/strict';
import net from 'node:net';
import { connect, connected, connectPacket, eventually, exchange, parseMetrics, Polling, RawSocket, someone, test, token, within } from './harness.mjs';

const metric = async (node, name, labels) => parseMetrics((await node.api.request('GET', '/metrics')).text).value(name, labels);

/** A TCP connection that collects what it gets, and knows when the other side closed it. */
function tcp(node, text) {
  const socket = net.connect(node.port, '127.0.0.1');
  const seen = { text: '', socket };
  socket.setEncoding('utf8').on('data', (part) => (seen.text += part)).on('error', () => {});
  seen.closed = new Promise((resolve) => socket.on('close', resolve).on('end', resolve));
  socket.write(text);
  return seen;
}

test('limits.connections: beyond it a handshake gets 503, and the stock client gets in by itself when there is room', async ({ node }) => {
  const door = await node({ internal: true, env: { SWITCHBOARD_LIMITS__CONNECTIONS: '2' } });
  const [first] = [await connected(door, { user: 'a' }), await connected(door, { user: 'b' })];
  const third = connect(door, { user: 'c', reconnectionDelay: 100, reconnectionDelayMax: 200 });
  await third.wait('connect_error');
  assert.equal(third.socket.active, true, 'expected a refusal over HTTP (503), after which the stock client tries again');
  assert.equal((await exchange(door.url, 'GET', '/socket.io/?EIO=4&transport=polling')).status, 503, 'expected 503 to a handshake beyond limits.connections');
  first.socket.disconnect();
  await third.ready();
  assert.equal((await door.api.stats()).connections, 2);
});

test('limits.handshake_timeout: a WebSocket that never sends CONNECT is closed', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '1s' } });
  const raw = await new RawSocket(door.url).open();
  await within(8000, 'the server closes a WebSocket that sent no CONNECT within limits.handshake_timeout', raw.closed);
});

test('limits.handshake_timeout: a transport left with no namespace is closed', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '1s' } });
  const raw = new RawSocket(door.url);
  await raw.connect({ token: token(someone()) });
  raw.ws.send('41');
  await within(8000, 'the server closes a WebSocket whose last namespace was left', raw.closed);
});

test('limits.handshake_timeout: a transport whose every CONNECT is refused is closed', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '1s' } });
  const raw = await new RawSocket(door.url).open();
  raw.ws.send(connectPacket({ token: 'rubbish' }));
  await raw.until(/^44/);
  await within(8000, 'the server closes a WebSocket that was refused', raw.closed);
});

test('limits.handshake_timeout: a request head that does not end is cut off', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '1s' } });
  const silent = tcp(door, '');
  const half = tcp(door, 'GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nX-Slow: ');
  const drip = setInterval(() => half.socket.writable && half.socket.write('z'), 200);
  try {
    await within(8000, 'the server closes a connection whose request head never ends', half.closed);
    await within(8000, 'the server closes a connection that sends nothing', silent.closed);
  } finally {
    clearInterval(drip);
    half.socket.destroy();
    silent.socket.destroy();
  }
});

test('a client that stays within a connected namespace is not timed out by the handshake\'s limit', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '1s' } });
  const user = someone('patient');
  const client = await connected(door, { user });
  const other = await new RawSocket(door.url).open();
  await within(8000, 'another client, without CONNECT, is closed meanwhile', other.closed);
  await door.api.send(user, 'still', 1);
  await client.wait('still');
  assert.equal(client.count('disconnect'), 0);
});

test('limits.connections: handshakes at the same moment do not slip in together', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__CONNECTIONS: '5' } });
  // All have their transport before the first of them is a connection.
  const raws = await Promise.all(Array.from({ length: 30 }, () => new RawSocket(door.url).open()));
  const ends = await Promise.allSettled(raws.map((raw) => {
    raw.ws.send(`40${JSON.stringify({ token: token(someone('full')) })}`);
    return raw.until(/^42\["ready"/);
  }));
  assert.equal(ends.filter((end) => end.status === 'fulfilled').length, 5);
  assert.equal((await door.api.stats()).connections, 5);
});

test('CONNECT and DISCONNECT over and over end the transport', async ({ node }) => {
  const door = await node();
  const auth = { token: token(someone('restless')) };
  const raw = await new RawSocket(door.url).open();
  let connects = 0;
  raw.ws.on('message', (data) => {
    if (!data.toString().startsWith('42["ready"')) return;
    connects += 1;
    raw.ws.send('41');
    raw.ws.send(connectPacket(auth));
  });
  raw.ws.send(connectPacket(auth));
  await within(20000, 'the server closes the transport', raw.closed);
  assert.ok(connects >= 20 && connects < 200, `expected a burst to pass, ${connects} did`);
});

test('a request head of 1 MB is refused', async ({ node }) => {
  const door = await node();
  const huge = tcp(door, `GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nX-Huge: ${'h'.repeat(1_000_000)}`);
  await within(10000, 'the server refuses a request head of 1 MB without waiting for its end', huge.closed);
  assert.ok(huge.text === '' || /^HTTP\/1\.1 4\d\d/.test(huge.text), `expected 4xx or nothing, got ${huge.text.slice(0, 60)}`);
  huge.socket.destroy();
});

for (const transport of ['websocket', 'polling']) {
  test(`limits.max_payload: a larger message ends the connection, a smaller one does not (${transport})`, async ({ node }) => {
    const door = await node({ env: { SWITCHBOARD_LIMITS__MAX_PAYLOAD: '100KB' } });
    const user = someone('payload');
    const client = await connected(door, { user, transports: [transport], reconnection: false });
    client.socket.emit('small', 'x'.repeat(90_000));
    await door.api.send(user, 'still', 1);
    await client.wait('still');
    if (transport === 'websocket') {
      client.socket.emit('large', 'x'.repeat(150_000));
      await client.wait('disconnect');
      await eventually('the connection is gone from the registry', async () => (await door.api.user(user)).online === false);
    } else {
      // The stock client heeds maxPayload only between packets; a raw one shows the server's answer.
      const session = await Polling.open(door.url);
      await session.connect({ token: token(someone()) });
      const { status } = await session.post(`42["large","${'x'.repeat(150_000)}"]`);
      assert.ok(status >= 400 && status < 500, `expected 4xx to a POST beyond limits.max_payload, got ${status}`);
    }
    await connected(door, { user: someone() });
  });
}

test('limits.max_payload_guest bounds a message, not what a guest has to send at once', async ({ node }) => {
  const door = await node();
  const ended = (reason) => metric(door, 'switchboard_transports_ended_total', { reason });
  const guest = await Polling.open(door.url);
  await guest.post('40/public,');
  await guest.until(/^42\/public,\["ready"/);
  const many = await guest.post(...Array.from({ length: 100 }, (_, n) => `42/public,["chat",${n},"${'x'.repeat(1000)}"]`));
  assert.deepEqual([many.status, many.text], [200, 'ok']);
  assert.equal(await ended('message_too_large'), 0);
  const large = await guest.post(`42/public,["chat","${'x'.repeat(70_000)}"]`);
  assert.equal(large.status, 413);
  assert.equal(await ended('message_too_large'), 1);
  await guest.refused();
  // Also where a smaller one follows it.
  const another = await Polling.open(door.url);
  await another.post('40/public,');
  await another.until(/^42\/public,\["ready"/);
  assert.equal((await another.post(`42/public,["chat","${'x'.repeat(65_000)}"]`, '42/public,["chat"]')).status, 413);
  assert.equal(await ended('message_too_large'), 2);
  // A user may send more, and over a WebSocket it is the same.
  const user = await Polling.open(door.url);
  await user.connect({ token: token(someone('large')) });
  assert.equal((await user.post(`42["chat","${'x'.repeat(70_000)}"]`)).status, 200);
  const raw = await new RawSocket(door.url).open();
  raw.ws.send('40/public,');
  await raw.until(/^42\/public,\["ready"/);
  raw.ws.send(`42/public,["chat","${'x'.repeat(70_000)}"]`);
  await within(10000, 'the server closes the transport', raw.closed);
  assert.equal(await ended('message_too_large'), 3);
});

for (const [what, packets, reason] of [
  ['attachments announced with a zero in front', ['45010-/public,["x",{"_placeholder":true,"num":0}]'], 'malformed_packet'],
  ['a binary ack with more attachments than a guest may send', ['4610-/public,7["x"]', ...Array(9).fill(Buffer.alloc(60_000))], 'message_too_large'],
  ['CONNECT for a namespace that is joined', ['40/public,'], 'second_connect'],
]) {
  test(`a guest is ended, and counted as ${reason}, for ${what}`, async ({ node }) => {
    const door = await node();
    const raw = await new RawSocket(door.url).open();
    raw.ws.send('40/public,');
    await raw.until(/^42\/public,\["ready"/);
    for (const packet of packets) raw.ws.send(packet);
    await within(10000, 'the server closes the transport', raw.closed);
    assert.equal(await metric(door, 'switchboard_transports_ended_total', { reason }), 1);
    assert.equal(await metric(door, 'switchboard_disconnects_total', { reason }), 1);
    await connected(door, { user: someone() });
  });
}

test('an attachment may come later than its event', async ({ node }) => {
  const door = await node();
  const user = someone('upload');
  const raw = new RawSocket(door.url);
  await raw.connect({ token: token(user) });
  raw.ws.send('451-["file",{"_placeholder":true,"num":0}]');
  // As an upload takes on a slow line: longer than the 5 s after which the parser once gave up.
  await new Promise((resolve) => { setTimeout(resolve, 6000); });
  raw.ws.send(Buffer.alloc(100_000));
  raw.ws.send('421["devices"]');
  await raw.until(/^431\[\{.*"ok":true/);
});

test('limits.events_per_second: beyond the burst events are refused with "error", the connection stays', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__EVENTS_PER_SECOND: '10', SWITCHBOARD_LIMITS__EVENTS_BURST: '10' } });
  const user = someone('chatty');
  const client = await connected(door, { user, reconnection: false });
  for (let i = 0; i < 40; i += 1) client.socket.emit('chat', i);
  const [refused] = await client.wait('error');
  assert.equal(typeof refused?.message, 'string', 'expected error {message}');
  const answers = await Promise.all(Array.from({ length: 20 }, () => client.ask('devices')));
  assert.deepEqual(answers.at(-1), { ok: false, error: 'Too many events' }, 'expected the refusal to be the answer, as emitWithAck waits for one');
  await door.api.send(user, 'still', 1);
  await client.wait('still');
  assert.equal(client.count('disconnect'), 0, client.history());
});

test('limits.events_per_second: at ten times that the connection ends', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_LIMITS__EVENTS_PER_SECOND: '10', SWITCHBOARD_LIMITS__EVENTS_BURST: '10' } });
  const user = someone('flood');
  const neighbour = await connected(door, { user: someone('neighbour') });
  const client = await connected(door, { user, reconnection: false });
  for (let i = 0; i < 3000; i += 1) client.socket.emit('chat', i);
  await client.wait('disconnect');
  await eventually('the flooding connection is gone from the registry', async () => (await door.api.user(user)).online === false);
  assert.equal(neighbour.count('disconnect'), 0);
});
