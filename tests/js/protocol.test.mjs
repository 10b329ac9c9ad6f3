// The two protocol documents, Engine.IO 4 and Socket.IO 5: one case for each sentence that says "must", on the raw wire. The official
// suites themselves are run by tests/suites, where there is a checkout of them.

import assert from 'node:assert/strict';
import WebSocket from 'ws';
import { after, before, exchange, Polling, RawSocket, startNode, test, within } from './harness.mjs';

const UNKNOWN = { ok: false, error: 'Unknown event' };
const PING = 300;
const PONG = 200;

let door;
before(async () => {
  const namespaces = '[[namespaces]]\npath = "/"\nauth = "none"\n[[namespaces]]\npath = "/custom"\nauth = "none"\n';
  const env = { SWITCHBOARD_PING__INTERVAL: `${PING}ms`, SWITCHBOARD_PING__TIMEOUT: `${PONG}ms`, SWITCHBOARD_LIMITS__HANDSHAKE_TIMEOUT: '1s' };
  door = await startNode({ config: namespaces, env });
});
after(() => door.kill());

const get = (query) => exchange(door.url, 'GET', `/socket.io/?${query}`);
const socket = (options) => new RawSocket(door.url, options);
const open = () => socket().open();
const closes = (raw) => within(5000, 'the server closes the WebSocket', raw.closed);
const joined = async (namespace = '/') => {
  const raw = await open();
  raw.ws.send(namespace === '/' ? '40' : `40${namespace},`);
  await raw.until(namespace === '/' ? /^42\["ready"/ : new RegExp(`^42${namespace},\\["ready"`));
  return raw;
};

test('engine: a mandatory query parameter that is missing or unknown: 400', async () => {
  for (const query of ['transport=polling', 'EIO=abc&transport=polling', 'EIO=4', 'EIO=4&transport=abc', 'transport=websocket', '']) assert.equal((await get(query)).status, 400, query);
  for (const method of ['POST', 'PUT']) assert.equal((await exchange(door.url, method, '/socket.io/?EIO=4&transport=polling')).status, 400, method);
});

test('engine: a mandatory query parameter that is missing: the WebSocket is closed', async () => {
  for (const query of ['transport=websocket', 'EIO=abc&transport=websocket', 'EIO=4', 'EIO=4&transport=abc']) {
    const ws = new WebSocket(`${door.url.replace('http', 'ws')}/socket.io/?${query}`);
    ws.on('error', () => {});
    await within(5000, `a WebSocket with "${query}" is closed`, new Promise((resolve) => ws.on('close', resolve)));
  }
});

test('engine: a handshake is answered with an open packet of five fields', async () => {
  const fields = { pingInterval: PING, pingTimeout: PONG, maxPayload: 1_000_000 };
  const polls = await Polling.open(door.url);
  const { sid, ...rest } = polls.handshake;
  assert.equal(typeof sid, 'string');
  assert.deepEqual(rest, { upgrades: ['websocket'], ...fields });
  const { sid: other, ...more } = (await open()).handshake;
  assert.notEqual(other, sid);
  assert.deepEqual(more, { upgrades: [], ...fields });
});

test('engine: an unknown session is 400, for GET and for POST', async () => {
  const polls = await Polling.open(door.url);
  polls.sid = 'AAAAAAAAAAAAAAAA';
  assert.equal((await polls.poll()).status, 400);
  assert.equal((await polls.post('4x')).status, 400);
});

test('engine: a POST is answered 200 and "ok"', async () => {
  const polls = await Polling.open(door.url);
  const { status, text } = await polls.post('40');
  assert.deepEqual([status, text], [200, 'ok']);
});

test('engine: two POSTs at once: 400, and the session is closed', async () => {
  const polls = await Polling.open(door.url);
  const answers = await Promise.all(Array.from({ length: 8 }, () => polls.post('x'.repeat(60_000))));
  assert.ok(answers.some(({ status }) => status === 400));
  await polls.refused();
});

test('engine: two GETs at once: the first is told that it is over, the second is 400, and the session is closed', async () => {
  const polls = await Polling.open(door.url);
  const answers = await Promise.all([polls.poll(), polls.poll()]);
  assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 400]);
  assert.equal(answers.find(({ status }) => status === 200).text, '1');
  assert.equal((await polls.poll()).status, 400);
});

test('engine: a session may not have a second WebSocket: it is closed, and the first goes on', async () => {
  const polls = await Polling.open(door.url);
  await polls.post('40');
  await polls.until(/^42\["ready"/);
  const first = socket({ sid: polls.sid });
  first.ws.on('open', () => first.ws.send('2probe'));
  await first.until(/^3probe$/);
  const released = await polls.poll();
  assert.deepEqual([released.status, released.text], [200, '6'], 'expected the poll that waits to come back with a noop');
  first.ws.send('5');
  first.ws.send('427["x"]');
  await first.until(/^437\[/);
  const second = socket({ sid: polls.sid });
  await closes(second);
  assert.equal(second.error, undefined, 'expected it to be taken and closed');
  const poll = await polls.poll();
  assert.equal(poll.status, 400, 'expected no poll after the upgrade');
  first.ws.send('428["x"]');
  await first.until(/^438\[/);
});

test('engine: a session that does not answer its ping is closed, and one that does stays', async () => {
  const polls = await Polling.open(door.url);
  const silent = await open();
  silent.ws.removeAllListeners('message');
  const raw = await joined();
  await closes(silent);
  await polls.refused();
  assert.equal(raw.code, undefined);
  assert.ok(raw.packets.filter((packet) => packet === '2').length >= 1);
});

test('engine: a close packet closes the session; the poll that waits comes back with a noop', async () => {
  for (let i = 0; i < 10; i += 1) {
    const polls = await Polling.open(door.url);
    const [poll, posted] = await Promise.all([polls.poll(), polls.post('1')]);
    assert.deepEqual([poll.status, poll.text, posted.status], [200, '6', 200]);
    assert.equal((await polls.poll()).status, 400);
  }
  const raw = await open();
  raw.ws.send('1');
  await closes(raw);
});

test('engine: what is no packet closes the session', async () => {
  const polls = await Polling.open(door.url);
  assert.equal((await polls.post('abc')).status, 400);
  await polls.refused();
  const raw = await open();
  raw.ws.send('abc');
  await closes(raw);
});

test('engine: binary payloads are base64 behind a "b" in polls', async () => {
  const polls = await Polling.open(door.url);
  await polls.post('40');
  await polls.until(/^42\["ready"/);
  await polls.post('451-3["x",{"_placeholder":true,"num":0}]', 'bAQIDBA==');
  await polls.until(/^433\[/);
});

test('socket: CONNECT is answered with an id, or with an error', async () => {
  for (const namespace of ['/', '/custom']) {
    const raw = await joined(namespace);
    const start = namespace === '/' ? '40' : `40${namespace},`;
    const { sid, ...rest } = JSON.parse(raw.packets.find((packet) => packet.startsWith(start)).slice(start.length));
    assert.deepEqual([typeof sid, rest], ['string', {}]);
    assert.notEqual(sid, raw.handshake.sid);
  }
  const raw = await open();
  raw.ws.send('40/random');
  // Beside the message the code of contract 2, which the official suite does not expect.
  await raw.until(/^44\/random,\{"message":"Invalid namespace","data":\{"code":"invalid_namespace"\}\}$/);
});

test('socket: without CONNECT first the connection is closed', async () => {
  for (const packet of ['42["x"]', undefined]) {
    const raw = await open();
    if (packet) raw.ws.send(packet);
    await closes(raw);
  }
});

test('socket: several namespaces share a connection, and leaving one keeps the other', async () => {
  const raw = await joined();
  raw.ws.send('40/custom');
  await raw.until(/^42\/custom,\["ready"/);
  raw.ws.send('41/custom');
  raw.ws.send('427["x"]');
  await raw.until(/^437\[/);
});

test('socket: an event\'s payload that is no array, or an empty one, closes the connection', async () => {
  for (const packet of ['42{}', '42[]', '42', '42"x"', '42abc["x"]', '4abc', '42["x"', '42[null]']) {
    const raw = await joined();
    raw.ws.send(packet);
    await closes(raw);
  }
});

test('socket: an event with an id is answered with an ACK of that id, whose payload is an array', async () => {
  const raw = await joined();
  raw.ws.send('42456["x",1,"2",{"3":[false]}]');
  raw.ws.send('452-789["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]');
  raw.ws.send(Buffer.from([1, 2, 3]));
  raw.ws.send(Buffer.from([4, 5, 6]));
  for (const id of [456, 789]) {
    const [, payload] = await raw.until(new RegExp(`^43${id}(\\[.*\\])$`));
    assert.deepEqual(JSON.parse(payload), [UNKNOWN]);
  }
});
