// Somebody who can write to Redis is not heard as a node: what nodes tell each other is sealed, and counts once.

import assert from 'node:assert/strict';
import { createClient } from 'redis';
import { after, before, connected, describe, eventually, parseMetrics, someone, startNode, startRedis, test } from './harness.mjs';

const DROPPED = 'switchboard_messages_dropped_total';
const MARKER = 'captured-0';

describe('a message between two nodes', () => {
  let redis;
  let holder;
  let sender;
  let listening;
  let writing;
  /** [channel, message] of all that has come by, newest last. */
  const heard = [];

  before(async () => {
    redis = await startRedis();
    [holder, sender] = await Promise.all(['holder', 'sender'].map((name) => startNode({ redis, name })));
    await eventually('each node sees both', async () => {
      for (const node of [holder, sender]) assert.equal((await node.api.nodes()).length, 2);
    });
    [listening, writing] = [createClient({ url: redis.url }), createClient({ url: redis.url })];
    await Promise.all([listening.connect(), writing.connect()]);
    const channels = await writing.sendCommand(['PUBSUB', 'SHARDCHANNELS']);
    const ours = channels.filter((channel) => channel.includes(':bus:'));
    assert.equal(ours.length, 2 * 16 + 1, 'expected 16 channels of each node and the one of all');
    for (const channel of ours) await listening.sSubscribe(channel, (message) => heard.push([channel, message]), true);
  });
  after(async () => {
    listening?.destroy();
    writing?.destroy();
    await Promise.all([holder, sender].map((node) => node?.kill()));
    await redis?.stop();
  });

  const dropped = async (reason) => parseMetrics((await holder.api.request('GET', '/metrics')).text).value(DROPPED, { reason });
  const publish = async (channel, message) => assert.ok((await writing.sendCommand(['SPUBLISH', channel, message])) >= 2, 'expected the node to hear it');
  /** What was published of a send: where, and how. */
  const capture = async (send) => {
    const from = heard.length;
    const delivered = await send();
    const find = () => heard.slice(from).find(([, message]) => message.includes(MARKER));
    await eventually('the message comes by', () => assert.ok(find()));
    return { delivered, channel: find()[0], message: find()[1] };
  };
  /** Waits until all that was published before has been dealt with: a later one has. */
  const caughtUp = async (client, user) => {
    const nth = client.count('later') + 1;
    await sender.api.send(user, 'later', nth);
    await client.wait('later', { nth });
  };

  for (const [what, send] of [
    ['to a user', (user) => sender.api.send(user, 'news', MARKER)],
    ['to all', () => sender.api.ok('POST', '/v1/broadcast', { event: 'news', data: MARKER })],
  ]) {
    test(`one ${what}, played again, comes once; altered, not at all`, async () => {
      const user = someone('bus');
      const client = await connected(holder, { user });
      const { delivered, channel, message } = await capture(() => send(user));
      assert.equal(delivered.connections, 1, JSON.stringify(delivered));
      await client.wait('news');
      const before = { replayed: await dropped('replayed'), forged: await dropped('forged') };
      for (let again = 0; again < 3; again += 1) await publish(channel, message);
      const altered = Buffer.from(message);
      altered[altered.indexOf(MARKER) + MARKER.length - 1] = '1'.charCodeAt(0);
      await publish(channel, altered);
      const bare = message.subarray(0, message.length - 53);
      await publish(channel, bare);
      await eventually('all of it is counted', async () => {
        assert.deepEqual({ replayed: await dropped('replayed'), forged: await dropped('forged') }, { replayed: before.replayed + 3, forged: before.forged + 2 });
      });
      await caughtUp(client, user);
      assert.equal(client.count('news'), 1, `expected it once; it got: ${client.history()}`);
      const log = holder.log;
      assert.match(log, /a message on the bus that was there before is dropped/);
      assert.match(log, /a message on the bus without the fleet's seal is dropped/);
      client.socket.disconnect();
    });
  }

  test('acks and disconnects go between the nodes as ever', async () => {
    const user = someone('bus');
    const client = await connected(holder, { user });
    client.answer('ask', 42);
    const answer = await sender.api.send(user, 'ask', null, { ack: { timeoutMs: 5000 } });
    assert.deepEqual(answer.acks.map(({ data }) => data), [42], JSON.stringify(answer));
    assert.deepEqual(await sender.api.disconnect(user), { disconnected: 1, nodes: 1, remaining: [] });
    await client.kicked(4500);
  });

  test('secrets are replaced by SIGHUP, one step at a time, and nothing is lost', async () => {
    const [old, next] = ['0123456789abcdef0123456789abcdef', 'fedcba9876543210fedcba9876543210'];
    const text = (...secrets) => `[registry]\nprefix = "rotating"\nsecrets = ${JSON.stringify(secrets)}\n`;
    const pair = await Promise.all(['a', 'b'].map((name) => startNode({ redis, name, config: text(old) })));
    try {
      const user = someone('bus');
      const client = await connected(pair[0], { user });
      let sent = 0;
      const reaches = async () => assert.deepEqual(await pair[1].api.send(user, 'news', (sent += 1)), { connections: 1, nodes: 1, unconfirmed: 0 });
      await reaches();
      for (const secrets of [[old, next], [next, old], [next]]) {
        for (const node of pair) {
          const from = node.log.length;
          node.reload(text(...secrets));
          await eventually('the file is taken', () => assert.match(node.log.slice(from), /registry\.secrets/));
          await reaches();
        }
      }
      await client.wait('news', { nth: sent });
      assert.equal(client.count('news'), sent);
      for (const node of pair) assert.doesNotMatch(node.log, /fleet's seal|0123456789abcdef|fedcba/);
    } finally {
      await Promise.all(pair.map((node) => node.kill()));
    }
  });

  test('a node with another secret is heard by nobody, and one that has both by all', async () => {
    const user = someone('bus');
    const client = await connected(holder, { user });
    const [own, other] = ['0123456789abcdef0123456789abcdef', 'fedcba9876543210fedcba9876543210'];
    const stranger = await startNode({ redis, name: 'stranger', env: { SWITCHBOARD_REGISTRY__SECRETS: other } });
    try {
      const before = await dropped('forged');
      assert.deepEqual(await stranger.api.send(user, 'strange', 1), { connections: 0, nodes: 0, unconfirmed: 1 });
      assert.ok((await dropped('forged')) > before);
      await caughtUp(client, user);
      assert.equal(client.count('strange'), 0);
    } finally {
      await stranger.kill();
    }
    const two = [];
    try {
      two.push(await startNode({ redis, name: 'old', env: { SWITCHBOARD_REGISTRY__SECRETS: `${own},${other}` } }));
      two.push(await startNode({ redis, name: 'new', env: { SWITCHBOARD_REGISTRY__SECRETS: `${other},${own}` } }));
      const rotating = await connected(two[1], { user: `${user}-r` });
      assert.deepEqual(await two[0].api.send(`${user}-r`, 'both', 1), { connections: 1, nodes: 1, unconfirmed: 0 });
      await rotating.wait('both');
    } finally {
      await Promise.all(two.map((node) => node.kill()));
    }
  });
});
