// Contract 3a: what every kind of send takes. Several arguments, binary in both directions, exceptions, volatile.

import assert from 'node:assert/strict';
import { connected, eventually, expectProblem, onBothRegistries, parseMetrics, Polling, segment, someone, test, token } from './harness.mjs';

const base64 = (text) => ({ $base64: Buffer.from(text).toString('base64') });

onBothRegistries((world) => {
  /** A user's two clients, one on each node, and every way to send to them all. */
  const crowd = async (options = {}) => {
    const user = someone('many');
    const clients = [await connected(world.door, { user, ...options }), await connected(world.desk, { user, ...options })];
    const post = async (path, json) => (await world.api.ok('POST', path, json));
    const bulk = async (target, json) => (await post('/v1/events', { messages: [{ ...target, ...json }] })).results[0];
    return {
      user,
      clients,
      ways: {
        user: (json) => post(`/v1/users/${segment(user)}/events`, json),
        broadcast: (json) => post('/v1/broadcast', json),
        'bulk to the user': (json) => bulk({ user }, json),
        'bulk to its room': (json) => bulk({ room: `user:${user}` }, json),
      },
    };
  };

  for (const transport of ['websocket', 'polling']) {
    test(`args are the arguments, and $base64 in them is binary (${transport})`, async () => {
      const { clients, ways } = await crowd({ transports: [transport] });
      const args = [1, null, { file: base64('first'), list: [base64(''), 'text'] }, base64('last'), { $base64: 1 }, { $base64: 'YQ==', b: 1 }];
      let round = 0;
      for (const [way, send] of Object.entries(ways)) {
        const event = `e${(round += 1)}`;
        const answer = await send({ event, args });
        assert.ok(answer.connections >= 2, `${way}: ${JSON.stringify(answer)}`);
        for (const client of clients) {
          const got = await client.wait(event);
          const bytes = (text) => Buffer.from(text);
          assert.deepEqual(got, [1, null, { file: bytes('first'), list: [bytes(''), 'text'] }, bytes('last'), { $base64: 1 }, { $base64: 'YQ==', b: 1 }], way);
        }
      }
      for (const [args, got] of [[[], []], [[[1, 2]], [[1, 2]]], [[undefined], [null]]]) {
        const event = `a${(round += 1)}`;
        await ways.user({ event, args });
        assert.deepEqual(await clients[0].wait(event), got);
      }
    });
  }

  test('one connection gets several arguments and binary, and its binary answer comes back as $base64', async () => {
    const client = await connected(world.door, { user: someone('alone') });
    await world.api.ok('POST', `/v1/connections/${segment(client.id)}/events`, { event: 'one', args: ['a', base64('b')] });
    assert.deepEqual(await client.wait('one'), ['a', Buffer.from('b')]);

    const user = someone('answers');
    const asked = await connected(world.door, { user });
    asked.answer('sign', { name: 'a "quoted" ü', signature: Buffer.from([0, 255, 1]), list: [Buffer.alloc(0), -1.5] });
    const answer = await world.api.ok('POST', `/v1/users/${segment(user)}/events`, { event: 'sign', args: [base64('text'), 2], ack: { timeoutMs: 5000 } });
    assert.deepEqual(answer.acks, [{
      connectionId: asked.id,
      data: { name: 'a "quoted" ü', signature: { $base64: 'AP8B' }, list: [{ $base64: '' }, -1.5] },
    }]);
    assert.deepEqual((await asked.wait('sign')).slice(0, 2), [Buffer.from('text'), 2]);
  });

  for (const transports of [['websocket'], ['polling'], ['polling', 'websocket']]) {
    test(`what is sent to one, to a room and with an answer comes in the order in which it was sent (${transports})`, async () => {
      const room = `order:${process.pid}/${transports}`;
      const clients = [];
      for (const user of [someone('order'), someone('order'), someone('order')]) {
        clients.push(await connected(world.door, { user, transports, claims: { rooms: [room] } }));
      }
      const [client] = clients;
      const count = 300;
      // Alone, many of them are written together; to a room, they go another way than to one, and with binary they are several frames.
      const message = (n) => ({ event: 'n', args: n % 7 === 0 ? [n, base64(`${n}`)] : [n], ...(n % 3 === 0 ? { connection: client.id } : { room }) });
      const messages = Array.from({ length: count }, (_, n) => message(n));
      const answers = [];
      for (let at = 0; at < count; at += 100) {
        answers.push(client.ask('devices'));
        const { results } = await world.api.ok('POST', '/v1/events', { messages: messages.slice(at, at + 100) });
        for (const result of results) assert.ok(result.connections >= 1, JSON.stringify(result));
      }
      await Promise.all(answers);
      for (const one of clients) {
        const meant = messages.map((_, n) => n).filter((n) => one === client || n % 3 !== 0);
        await one.wait('n', { nth: meant.length });
        const got = one.seen.filter(({ name }) => name === 'n').map(({ args }) => args);
        assert.deepEqual(got.map(([n]) => n), meant, transports);
        for (const [n, bytes] of got) assert.deepEqual(bytes, n % 7 === 0 ? Buffer.from(`${n}`) : undefined);
      }
    });
  }

  test('who is excepted gets nothing, on whatever node, and everybody else does', async () => {
    const { clients, ways } = await crowd();
    const [one, other] = clients;
    const third = await connected(world.door, { user: someone('third') });
    let round = 0;
    for (const [way, send] of Object.entries(ways)) {
      const all = (await send({ event: 'before' })).connections;
      for (const except of [[one.id], [other.id, 'nobody'], [one.id, third.id]]) {
        const event = `x${(round += 1)}`;
        const meant = way === 'broadcast' ? except.filter((id) => id !== 'nobody').length : except.filter((id) => id === one.id || id === other.id).length;
        assert.equal((await send({ event, except })).connections, all - meant, `${way} without ${except}`);
        await send({ event: `${event} is over` });
        for (const client of clients) {
          await client.wait(`${event} is over`);
          assert.equal(client.count(event), except.includes(client.id) ? 0 : 1, `${way}: ${client.history()}`);
        }
      }
    }
    const none = await ways.user({ event: 'none', except: [one.id, other.id] });
    assert.deepEqual(none, { connections: 0, nodes: 0, unconfirmed: 0 });
  });

  test('what is volatile is dropped and counted for a client that has not taken what came before, and for no other', async () => {
    const user = someone('volatile');
    const prompt = await connected(world.door, { user });
    const session = await Polling.open(world.door.url);
    await session.connect({ token: token(user) });
    await session.until(/^42\["ready"/);
    const dropped = async () => parseMetrics((await world.door.api.request('GET', '/metrics')).text).value('switchboard_messages_dropped_total', { reason: 'volatile' });
    const before = await dropped();
    const ways = { user: { user }, room: { room: `user:${user}` } };
    for (const [way, target] of Object.entries(ways)) {
      const send = async (json) => (await world.api.ok('POST', '/v1/events', { messages: [{ ...target, ...json }] })).results[0];
      assert.equal((await send({ event: `${way} kept` })).connections, 2);
      assert.deepEqual(await send({ event: `${way} volatile`, volatile: true }), { connections: 1, nodes: 1, unconfirmed: 0 });
      await prompt.wait(`${way} volatile`);
      await session.until(new RegExp(`^42\\["${way} kept"`));
      assert.equal((await send({ event: `${way} taken`, volatile: true })).connections, 2, 'nothing waits any more');
      await session.until(new RegExp(`^42\\["${way} taken"`));
    }
    assert.ok(!session.packets.some((packet) => packet.includes('volatile"')), session.packets.join('\n'));
    assert.equal(await dropped(), before + 2);
  });

  test('what can not be sent is refused and names the place', async () => {
    const { ways } = await crowd();
    const post = (json) => world.api.request('POST', '/v1/broadcast', { json });
    for (const [json, status, code, detail] of [
      [{ data: 1, args: [1] }, 422, 'invalid_data', /^data and args/],
      [{ args: [0, { a: [{ $base64: '?' }] }] }, 422, 'invalid_data', /^args\[1\]\.a\[0\]\.\$base64: /],
      [{ data: { $base64: 'YQ' } }, 422, 'invalid_data', /^data\.\$base64: /],
      [{ args: 1 }, 400, 'malformed', /^args: /],
      [{ args: null }, 400, 'malformed', /^args: /],
      [{ except: 'c1' }, 400, 'malformed', /^except: /],
      [{ except: Array(1001).fill('c1') }, 422, 'too_many', /^except: /],
      [{ volatile: 1 }, 400, 'malformed', /^volatile: /],
      [{ args: ['x'.repeat(600_000), 'x'.repeat(600_000)] }, 413, 'payload_too_large', /./],
    ]) {
      const answer = await post({ event: 'e', ...json });
      const what = JSON.stringify(json).slice(0, 60);
      expectProblem(answer, status, what);
      assert.equal(answer.json.code, code, what);
      assert.match(answer.json.detail, detail, what);
    }
    const refused = await ways['bulk to the user']({ event: 'e', data: 1, args: [] });
    assert.equal(refused.error.code, 'invalid_data');
  });

  test('an administrator sends the same from /admin', async () => {
    const { user, clients } = await crowd();
    const admin = await connected(world.door, { user: someone('admin'), claims: { role: 'admin' }, namespace: '/admin' });
    await admin.granted('sendToUser', { user, event: 'e', args: [1, base64('two')], except: [clients[0].id] });
    assert.deepEqual(await clients[1].wait('e'), [1, Buffer.from('two')]);
    await admin.granted('sendToUser', { user, event: 'over', volatile: true });
    await clients[0].wait('over');
    assert.equal(clients[0].count('e'), 0, clients[0].history());
    for (const [json, error] of [[{ data: 1, args: [] }, /data and args/], [{ args: [{ $base64: '?' }] }, /args\[0\]\.\$base64/], [{ except: Array(1001).fill('c') }, /except/]]) {
      assert.match(await admin.denied([], 'sendToUser', { user, event: 'e', ...json }), error);
    }
  });
});

test('a send that has begun goes on though its caller goes away', async ({ node, redis }) => {
  const server = await redis();
  const door = await node({ redis: server });
  const user = someone('left');
  const client = await connected(door, { user });
  const begun = async () => parseMetrics((await door.api.request('GET', '/metrics')).text).value('switchboard_messages_sent_total', { kind: 'user' });
  const before = await begun();
  await server.command('CLIENT', 'PAUSE', '500', 'ALL');
  const caller = new AbortController();
  const url = `${door.url}/v1/users/${segment(user)}/events`;
  const call = fetch(url, { method: 'POST', headers: { authorization: `Bearer ${door.api.key}`, 'content-type': 'application/json' }, body: JSON.stringify({ event: 'late' }), signal: caller.signal });
  await eventually('the node has begun', async () => (await begun()) > before);
  caller.abort();
  await assert.rejects(call, { name: 'AbortError' });
  await client.wait('late');
});
