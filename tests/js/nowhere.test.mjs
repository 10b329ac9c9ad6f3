// Contract 2 and 7: a namespace that does not exist is refused with `Invalid namespace`, and counted like every other refusal.

import assert from 'node:assert/strict';
import { connect, connectPacket, eventually, parseMetrics, Polling, RawSocket, someone, test, token } from './harness.mjs';

const counted = async (door) => {
  const { series } = parseMetrics((await door.api.request('GET', '/metrics')).text);
  return series.get('switchboard_connect_errors_total').find(({ labels }) => labels.reason === 'namespace')?.value;
};
const count = (door, expected) => eventually(`${expected} are counted`, async () => assert.equal(await counted(door), expected));

test('a namespace that does not exist is counted, over WebSocket and polling, and from 0', async ({ node }) => {
  const door = await node();
  assert.equal(await counted(door), 0);
  let expected = 0;
  for (const transport of ['websocket', 'polling']) {
    for (const namespace of ['/nowhere', '/publicity', '/publi', `/${'x'.repeat(300)}`]) {
      const client = connect(door, { user: someone('lost'), namespace, transports: [transport] });
      await client.refused('Invalid namespace');
      await count(door, (expected += 1));
    }
  }
  for (const namespace of ['/', '/public']) await connect(door, { user: someone('there'), namespace }).ready();
  await count(door, expected);
});

test('packets that come together are each looked at, also while another namespace has been ended', async ({ node }) => {
  const door = await node();
  const user = someone('raw');
  const raw = new RawSocket(door.url);
  await raw.connect({ token: token(user) });
  raw.ws.send('40/public,');
  await raw.until(/^42\/public,\["ready"/);
  const burst = () => {
    raw.ws._socket.cork();
    for (const packet of ['40/a,', '42/public,["40/b,"]', '40/b,{}', '40/c']) raw.ws.send(packet);
    raw.ws._socket.uncork();
  };
  burst();
  await count(door, 3);
  await door.api.disconnect(user, { code: 4003, reconnect: true });
  await raw.until(/^41$/);
  burst();
  await count(door, 6);
  raw.packets = [];
  raw.ws.send(connectPacket({ token: token(user) }));
  await raw.until(/^42\["ready"/);
  const session = await Polling.open(door.url);
  await session.post('40/a,', connectPacket({ token: token(user) }), '40/b');
  await session.until(/^42\["ready"/);
  await count(door, 8);
});

test('the tenth refusal is the last on its transport, whatever was asked for', async ({ node }) => {
  const door = await node();
  const raw = await new RawSocket(door.url).open();
  for (let asked = 1; asked <= 10; asked += 1) {
    // With a token that is refused in between: they count together.
    raw.ws.send(asked === 5 ? connectPacket({ token: 'none' }) : `40/nowhere-${asked},`);
    await raw.until(asked === 5 ? /^44\{"message":"Invalid token"/ : new RegExp(`^44/nowhere-${asked},\\{"message":"Invalid namespace"`));
    if (asked === 9) {
      // Who is let in is no excuse.
      raw.ws.send('40/public,');
      await raw.until(/^42\/public,\["ready"/);
    }
  }
  await raw.seesClose();
  await count(door, 9);
  const session = await Polling.open(door.url);
  for (let asked = 1; asked <= 10; asked += 1) {
    await session.post(`40/nowhere-${asked},`);
    await session.until(new RegExp(`^44/nowhere-${asked},\\{"message":"Invalid namespace"`));
  }
  await session.refused();
  await connect(door, { user: someone('another') }).ready();
});
