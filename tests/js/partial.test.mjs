// Contract 2: "Ending one connection leaves the other namespaces of its transport alone", whatever its client is sending just
// then; and its client may come back on the same transport, at once.

import assert from 'node:assert/strict';
import { connect, connected, connectPacket, eventually, onBothRegistries, Polling, RawSocket, someone, test, token } from './harness.mjs';

const generous = { SWITCHBOARD_LIMITS__EVENTS_PER_SECOND: '1000000', SWITCHBOARD_LIMITS__EVENTS_BURST: '1000000' };
const transports = ['websocket', 'polling'];

/** Has `client` send events, with and without attachments and acks, until it learns that it is out; returns how many. */
function chatter(client) {
  const { socket } = client;
  const state = { sent: 0 };
  const timer = setInterval(() => {
    for (let i = 0; i < 20 && socket.connected; i += 1) {
      socket.emit('chat', { n: (state.sent += 1) });
      socket.emit('file', { one: Buffer.alloc(100, 1), two: Buffer.alloc(10, 2) }, 'x');
      socket.emit('devices', () => {});
    }
  }, 1);
  socket.once('disconnect', () => clearInterval(timer));
  return state;
}

/** Ends the connection of `client`, a `user`'s, in one of the ways there are. */
const ways = {
  'DELETE /v1/connections/{id}': ({ world, client }) => world.api.ok('DELETE', `/v1/connections/${client.id}`),
  logoutDevice: async ({ world, client, user }) => {
    const other = await connected(world.door, { user });
    await other.granted('logoutDevice', client.id);
  },
  'a ban of its user': ({ world, user }) => world.api.ban(user),
  'an end that lets it come back': ({ world, user, keeper }) => world.api.disconnect(user, { code: 4003, reconnect: true, except: [keeper.id] }),
};

onBothRegistries((world) => {
  for (const transport of transports) {
    for (const [way, end] of Object.entries(ways)) {
      test(`${transport}: ${way}, while events are in flight, leaves the other namespace alone`, async () => {
        for (let round = 0; round < 4; round += 1) {
          const user = someone('one-of-two');
          const keeper = connect(world.door, { user: someone('stays'), namespace: '/public', transports: [transport] });
          await keeper.ready();
          const client = keeper.join('/', { auth: { token: token(user) } });
          await client.ready();
          const engine = keeper.socket.io.engine.id;
          const state = chatter(client);
          await eventually('events are in flight', () => state.sent > 50);
          await end({ world, client, user, keeper });
          await client.wait('disconnect');
          assert.equal(client.seen.find(({ name }) => name === 'disconnect').args[0], 'io server disconnect');
          for (let i = 0; i < 3; i += 1) await keeper.granted('devices');
          assert.equal(keeper.count('disconnect'), 0, `round ${round}: the other namespace went along; ${keeper.history()}`);
          assert.equal(keeper.socket.io.engine.id, engine);
          keeper.socket.io._close();
        }
      });
    }

    test(`${transport}: a client that is out calls connect() at once, and is in again`, async () => {
      const user = someone('back');
      const keeper = connect(world.door, { user: someone('stays'), namespace: '/public', transports: [transport] });
      await keeper.ready();
      const client = keeper.join('/', { auth: { token: token(user) } });
      client.socket.on('disconnect', () => client.socket.connect());
      for (let round = 1; round <= 30; round += 1) {
        await client.ready({ nth: round });
        chatter(client);
        if (round % 2) await world.api.ok('DELETE', `/v1/connections/${client.id}`);
        else await world.api.disconnect(user, { code: 4003, reconnect: true });
      }
      await client.ready({ nth: 31 });
      assert.equal(keeper.count('disconnect'), 0, keeper.history());
      await keeper.granted('devices');
      assert.deepEqual((await world.api.user(user)).connections.map(({ id }) => id), [client.id]);
    });

    test(`${transport}: a client that goes and comes in one breath is in again`, async () => {
      const user = someone('in-and-out');
      const keeper = connect(world.door, { user: someone('stays'), namespace: '/public', transports: [transport] });
      await keeper.ready();
      const client = keeper.join('/', { auth: { token: token(user) } });
      for (let round = 1; round <= 30; round += 1) {
        await client.ready({ nth: round });
        client.socket.disconnect().connect();
      }
      await client.ready({ nth: 31 });
      assert.equal(keeper.count('disconnect'), 0, keeper.history());
      await eventually('only the last one is listed', async () => {
        assert.deepEqual((await world.api.user(user)).connections.map(({ id }) => id), [client.id]);
      });
    });
  }

  test('websocket: to an ended namespace anything may be sent, and nothing comes from it, until CONNECT', async () => {
    const auth = { token: token(someone('raw')) };
    const raw = new RawSocket(world.door.url);
    await raw.connect(auth);
    raw.ws.send('40/public,');
    await raw.until(/^42\/public,\["ready"/);
    for (let round = 0; round < 20; round += 1) {
      const [, ready] = await raw.until(/^42\["ready",(.*)\]$/s);
      await world.api.ok('DELETE', `/v1/connections/${JSON.parse(ready).connectionId}`);
      await raw.until(/^41$/);
      raw.packets = [];
      raw.ws.send('42["chat",1]');
      raw.ws.send('429["devices"]');
      raw.ws.send('451-["file",{"_placeholder":true,"num":0}]');
      raw.ws.send(Buffer.alloc(300));
      raw.ws.send('433["an ack of nothing"]');
      raw.ws.send(`42["long","${'x'.repeat(5000)}"]`);
      raw.ws.send('42["40{}"]', { fin: false });
      raw.ws.send(',1]', { fin: true });
      await world.api.ok('POST', '/v1/broadcast', { event: 'all', data: round });
      await world.api.ok('POST', '/v1/broadcast', { event: 'all', data: round, namespace: '/public' });
      raw.ws.send('42/public,7["devices"]');
      await raw.until(/^43\/public,7\[/);
      await raw.until(/^42\/public,\["all"/);
      const stray = raw.packets.filter((packet) => /^4[0-9]*[^/\d]/.test(packet));
      assert.deepEqual(stray, [], 'nothing is told to an ended namespace');
      // As one write: the events are still on their way when their client asks to be let in again.
      raw.ws._socket.cork();
      for (let i = 0; i < 50; i += 1) raw.ws.send('42["late"]');
      raw.ws.send(connectPacket(auth));
      raw.ws._socket.uncork();
    }
    await raw.until(/^42\["ready",/);
    raw.ws.send('428["devices"]');
    await raw.until(/^438\[\{"connections":\[/);
  });

  test('polling: the same', async () => {
    const auth = { token: token(someone('raw')) };
    const session = await Polling.open(world.door.url);
    await session.connect(auth);
    await session.post('40/public,');
    await session.until(/^42\/public,\["ready"/);
    for (let round = 0; round < 20; round += 1) {
      const [, ready] = await session.until(/^42\["ready",(.*)\]$/s);
      await world.api.ok('DELETE', `/v1/connections/${JSON.parse(ready).connectionId}`);
      await session.until(/^41$/);
      session.packets = [];
      const sent = await session.post('42["chat",1]', '451-["file",{"_placeholder":true,"num":0}]', `b${Buffer.alloc(30).toString('base64')}`, '429["devices"]');
      assert.equal(sent.status, 200);
      await world.api.ok('POST', '/v1/broadcast', { event: 'all', data: round });
      await world.api.ok('POST', '/v1/broadcast', { event: 'all', data: round, namespace: '/public' });
      assert.equal((await session.post('42/public,7["devices"]')).status, 200);
      await session.until(/^43\/public,7\[/);
      await session.until(/^42\/public,\["all"/);
      assert.deepEqual(session.packets.filter((packet) => /^4[0-9]*[^/\d]/.test(packet)), [], 'nothing is told to an ended namespace');
      assert.equal((await session.post('42["late"]', '42["late"]', connectPacket(auth), '42/public,["x"]')).status, 200);
    }
    await session.until(/^42\["ready",/);
    await session.post('428["devices"]');
    await session.until(/^438\[\{"connections":\[/);
  });
}, { env: generous });

onBothRegistries((world) => {
  for (const transport of transports) {
    test(`${transport}: one that makes room for another while events are in flight leaves the other namespace alone`, async () => {
      for (let round = 0; round < 4; round += 1) {
        const user = someone('crowded');
        const keeper = connect(world.door, { user: someone('stays'), namespace: '/public', transports: [transport] });
        await keeper.ready();
        const client = keeper.join('/', { auth: { token: token(user) } });
        await client.ready();
        const state = chatter(client);
        await eventually('events are in flight', () => state.sent > 50);
        await connected(world.desk, { user });
        await client.kicked(4504, 'Connection limit');
        for (let i = 0; i < 3; i += 1) await keeper.granted('devices');
        assert.equal(keeper.count('disconnect'), 0, `round ${round}: the other namespace went along; ${keeper.history()}`);
        keeper.socket.io._close();
      }
    });
  }
}, { env: { ...generous, SWITCHBOARD_LIMITS__CONNECTIONS_PER_USER: '1', SWITCHBOARD_LIMITS__CONNECTIONS_PER_USER_POLICY: 'evict_oldest' } });
