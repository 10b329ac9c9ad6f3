// Contract 2 and 9: what a client sends is handled in the order it was sent, a bounded number at a time, and a flood harms
// nobody but its sender.

import assert from 'node:assert/strict';
import { connected, eventually, onBothRegistries, parseMetrics, Polling, RawSocket, someone, test, token, within } from './harness.mjs';

const generous = { SWITCHBOARD_LIMITS__EVENTS_PER_SECOND: '1000000', SWITCHBOARD_LIMITS__EVENTS_BURST: '1000000' };

/** The ids of the acknowledgements among `packets`, in their order. */
const acked = (packets) => packets.map((packet) => /^43(\d+)\[/.exec(packet)?.[1]).filter(Boolean).map(Number);

const metric = async (node, name, labels) => parseMetrics((await node.api.request('GET', '/metrics')).text).value(name, labels);

onBothRegistries((world) => {
  test('3,000 events with acks sent in one breath are acknowledged in the order they were sent (websocket)', async () => {
    const raw = new RawSocket(world.door.url);
    await raw.connect({ token: token(someone('orderly')) });
    const count = 3000;
    // What is refused at once would overtake what asks the registry, if they ran side by side.
    for (let i = 0; i < count; i += 1) raw.ws.send(`42${i}${i % 3 ? '["devices"]' : '["logoutDevice",17]'}`);
    await within(60000, 'all are acknowledged', eventually('all are acknowledged', async () => acked(raw.packets).length === count, { ms: 60000 }));
    assert.deepEqual(acked(raw.packets), Array.from({ length: count }, (_, i) => i));
  });

  test('and over polling, in several bodies', async () => {
    const session = await Polling.open(world.door.url);
    await session.connect({ token: token(someone('orderly')) });
    const count = 600;
    for (let i = 0; i < count; i += 100) {
      const packets = Array.from({ length: 100 }, (_, n) => `42${i + n}${n % 3 ? '["devices"]' : '["logoutDevice",17]'}`);
      assert.equal((await session.post(...packets)).status, 200);
    }
    await session.until(new RegExp(`^43${count - 1}\\[`), { ms: 60000 });
    assert.deepEqual(acked(session.packets), Array.from({ length: count }, (_, i) => i));
  });

  for (const transport of ['websocket', 'polling']) {
    test(`an event that nothing takes is acknowledged as unknown, and counted (${transport})`, async () => {
      const unknown = () => metric(world.door, 'switchboard_events_unknown_total');
      const before = await unknown();
      const client = await connected(world.door, { user: someone('unknown'), transports: [transport] });
      await client.denied('Unknown event', 'no such event', { a: 1 }, Buffer.from('binary'));
      client.socket.emit('nor this');
      await client.granted('devices');
      assert.equal(await unknown(), before + 2);
      assert.equal(client.count('disconnect'), 0, client.history());
    });
  }

  test('a guest that says who it is and asks in the same breath is answered as who it is', async () => {
    const user = someone('hasty');
    for (let round = 0; round < 20; round += 1) {
      const raw = await new RawSocket(world.door.url).open();
      raw.ws.send('40/public,');
      await raw.until(/^42\/public,\["ready"/);
      raw.ws.send(`42/public,1["authenticate",${JSON.stringify(token(user))}]`);
      raw.ws.send('42/public,2["devices"]');
      const [, answer] = await raw.until(/^43\/public,2(\[.*\])$/s);
      const [{ ok, connections }] = JSON.parse(answer);
      assert.ok(ok && connections.some((one) => one.userId === user), `expected its connections, got ${answer}`);
      raw.ws.terminate();
    }
  });
}, { env: generous });

test('no more than limits.events_burst events of a connection wait; what is beyond is refused and counted, nothing is lost silently', async ({ node, redis }) => {
  const store = await redis();
  const burst = 20;
  const door = await node({ redis: store, env: { SWITCHBOARD_LIMITS__EVENTS_PER_SECOND: '10000', SWITCHBOARD_LIMITS__EVENTS_BURST: String(burst) } });
  const raw = new RawSocket(door.url);
  await raw.connect({ token: token(someone('patient')) });
  const sent = 100;
  store.server.signal('SIGSTOP');
  try {
    for (let i = 0; i < sent; i += 1) {
      raw.ws.send(`42${i}["devices"]`);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    await raw.until(/^42\["error",\{"message":"Too many events"\}\]$/);
  } finally {
    store.server.signal('SIGCONT');
  }
  const errors = () => raw.packets.filter((packet) => packet.startsWith('42["error"')).length;
  const tooMany = () => raw.packets.filter((packet) => packet.endsWith('[{"error":"Too many events","ok":false}]'));
  await eventually('each is acknowledged', async () => assert.equal(acked(raw.packets).length, sent), { ms: 20000 });
  const taken = acked(raw.packets.filter((packet) => !tooMany().includes(packet)));
  assert.ok(taken.length >= burst && taken.length < sent, `${taken.length} taken, ${errors()} refused`);
  assert.deepEqual(taken, taken.toSorted((a, b) => a - b), 'expected those that were taken in order');
  assert.deepEqual([tooMany().length, acked(tooMany()).length], [errors(), errors()], 'expected each refusal to be an answer and an "error"');
  assert.equal(await metric(door, 'switchboard_events_refused_total'), errors());
  raw.ws.send('42999["devices"]');
  await raw.until(/^43999\[\{.*"ok":true/s);
});

for (const transport of ['websocket', 'polling']) {
  test(`a flood of events ends its sender and nobody else (${transport})`, async ({ node }) => {
    const door = await node();
    const neighbours = await Promise.all(Array.from({ length: 5 }, () => connected(door, { user: someone('neighbour'), reconnection: false })));
    const user = someone('flood');
    let before = 0;
    const event = '42["chat","x"]';
    if (transport === 'websocket') {
      const raw = new RawSocket(door.url);
      await raw.connect({ token: token(user) });
      // 50,000 in one write, as fast as the network takes them.
      const frame = Buffer.concat([Buffer.from([0x81, 0x80 | event.length, 0, 0, 0, 0]), Buffer.from(event)]);
      raw.ws._socket.write(Buffer.concat(Array(50_000).fill(frame)));
      const asked = Promise.all(neighbours.map((one) => one.granted('devices')));
      await within(20000, 'the flooding client is closed', raw.closed);
      await asked;
      before = raw.packets.length;
      assert.ok(raw.packets.some((packet) => /^42\["forceDisconnect",\{"code":4504/.test(packet)), 'expected it to be told why');
      assert.ok(raw.packets.includes('41'), 'expected it to be told not to come back');
    } else {
      const session = await Polling.open(door.url);
      await session.connect({ token: token(user) });
      const poll = session.until(/^41$/, { ms: 20000 });
      await session.post(...Array(50_000).fill(event));
      await poll;
      before = session.packets.length;
      await session.refused();
    }
    assert.ok(before < 5000, `expected what is sent back to be bounded, it was ${before} packets`);
    await eventually('the flooding connection is out of the registry', async () => (await door.api.user(user)).online === false);
    assert.ok((await metric(door, 'switchboard_events_refused_total')) > 1000);
    await Promise.all(neighbours.map((one) => one.granted('devices')));
    assert.deepEqual(neighbours.map((one) => one.count('disconnect') + one.count('error')), [0, 0, 0, 0, 0]);
  });
}

test('the tenth CONNECT with a bad token ends the transport, and nothing else', async ({ node }) => {
  const door = await node();
  const neighbour = await connected(door, { user: someone('neighbour'), reconnection: false });
  const raw = await new RawSocket(door.url).open();
  const answers = () => raw.packets.filter((packet) => packet.startsWith('44')).length;
  for (let guess = 1; guess <= 10; guess += 1) {
    raw.ws.send(`40{"token":"guess-${guess}"}`);
    await within(10000, `guess ${guess} is answered`, eventually(`guess ${guess} is answered`, async () => answers() === guess));
  }
  await within(10000, 'the server closes the transport', raw.closed);
  assert.equal(answers(), 10);
  assert.equal(await metric(door, 'switchboard_connect_errors_total', { reason: 'invalid' }), 10);
  await neighbour.granted('devices');
});

// Which of them are looked at depends on how they arrive: of those that come while one is being looked at, none is.
test('a flood of CONNECT with bad tokens ends the transport, with a bounded number of looks at tokens', async ({ node }) => {
  const door = await node();
  const neighbour = await connected(door, { user: someone('neighbour'), reconnection: false });
  const raw = await new RawSocket(door.url).open();
  for (let i = 0; i < 1000; i += 1) raw.ws.send(`40{"token":"guess-${i}"}`);
  await within(10000, 'the server closes the transport', raw.closed);
  const answers = raw.packets.filter((packet) => packet.startsWith('44')).length;
  const errors = await metric(door, 'switchboard_connect_errors_total', { reason: 'invalid' });
  assert.ok(answers >= 1 && answers <= 60, `expected a few answers, got ${answers}`);
  assert.ok(errors >= 1 && errors <= 60, `expected a bounded number of looks at tokens, it was ${errors}`);
  await neighbour.granted('devices');
});
