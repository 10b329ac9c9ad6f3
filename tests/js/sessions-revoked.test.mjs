// Contract 3 and 5: what a revocation means for those who come with a session cookie. A session says nothing of when it was
// issued, so what counts is when the node read it: whoever was read before the revocation is out, whoever is read after it
// comes in as the application's store says.

import assert from 'node:assert/strict';
import { connect, connected, eventually, onBothRegistries, someone, startRedis, test, token } from './harness.mjs';
import { SESSION_SECRET, signedCookie, startExpress } from './support/express.mjs';

const RECHECK = '300ms';
const cookies = (store, more = {}) => ({ SWITCHBOARD_AUTH__SESSION__SECRETS: SESSION_SECRET, SWITCHBOARD_AUTH__SESSION__RECHECK: RECHECK, ...(store && { SWITCHBOARD_AUTH__SESSION__REDIS_URL: store.url }), ...more });
const withCookie = (cookie, more = {}) => ({ auth: {}, extraHeaders: { cookie }, ...more });

/** Puts a session of a user into a Redis, and returns its cookie. */
async function plant(store, user) {
  await store.command('SET', `sess:of-${user}`, JSON.stringify({ cookie: { originalMaxAge: null, expires: null, httpOnly: true, path: '/' }, userId: user }));
  return `connect.sid=${signedCookie(`of-${user}`)}`;
}

/** How often a Redis has been asked for a session. */
async function looks(store) {
  return Number(/cmdstat_mget:calls=(\d+)/.exec(await store.command('INFO', 'commandstats'))?.[1] ?? 0);
}

onBothRegistries((world) => {
  for (const [what, revoke, code] of [
    ['revoke-tokens', (user) => world.api.revokeTokens(user), 4502],
    ['disconnect with revokeTokens', (user) => world.api.disconnect(user, { revokeTokens: true }), 4500],
  ]) {
    test(`${what} ends who came with a cookie, and keeps out no session for longer than its application does`, async ({ owned }) => {
      const app = await startExpress({ redis: world.store });
      owned(app.stop);
      const user = someone('revoked');
      const browser = await app.browser().login({ userId: user });
      const clients = await Promise.all([world.door, world.desk].map((at) => connected(at, withCookie(browser.cookie))));
      const given = token(user);
      const { disconnected } = await revoke(user);
      assert.equal(disconnected, 2);
      for (const client of clients) await client.kicked(code);
      await connect(world.door, { token: given }).refused('Token revoked');

      // The application has logged nobody out: at once, in the very second of the revocation, the session is good.
      const back = await Promise.all([world.door, world.desk].map((at) => connected(at, withCookie(browser.cookie))));
      assert.deepEqual((await world.api.user(user)).connections.map((one) => one.id).sort(), back.map((one) => one.id).sort());
      await browser.logout();
      for (const client of back) await client.kicked(4503, 'Session ended');
      await connect(world.door, withCookie(browser.cookie)).refused('Not authenticated');

      await browser.login({ userId: user });
      for (const at of [world.door, world.desk]) await connected(at, withCookie(browser.cookie));
      // Once more, as it would be the next day.
      const again = await revoke(user);
      assert.equal(again.disconnected, 2);
      await connected(world.desk, withCookie(browser.cookie));
    });
  }

  test('an administrator who came with a cookie, after a revocation, has the verbs; and loses them with the next', async () => {
    const chief = someone('chief');
    const cookie = await plant(world.store, chief);
    await world.store.command('SET', `sess:of-${chief}`, JSON.stringify({ cookie: {}, userId: chief, role: 'admin' }));
    await world.api.revokeTokens(chief);
    const client = await connected(world.door, withCookie(cookie, { namespace: '/admin' }));
    await client.granted('getUser', { user: chief });
    await world.api.revokeTokens(chief);
    await client.kicked(4502);
  });
}, {
  env: async (world) => {
    world.store = world.redis;
    if (world.store) return cookies();
    world.store = await startRedis();
    world.owned(() => world.store.stop());
    return cookies(world.store);
  },
});

test('who was read before the revocation does not slip in behind it', { ms: 120000 }, async ({ node, redis, link, note }) => {
  const [cluster, store] = [await redis(), await redis()];
  const wire = await link(cluster);
  // Looks at sessions are counted, so nobody else is to look.
  const env = cookies(store, { SWITCHBOARD_AUTH__SESSION__RECHECK: '1h' });
  const [slow, desk] = await Promise.all([node({ redis: wire, name: 'slow', env }), node({ redis: cluster, name: 'desk', env })]);
  const rounds = 8;
  for (let round = 1; round <= rounds; round += 1) {
    const user = someone('between');
    const cookie = await plant(store, user);
    const before = await looks(store);
    // The node has read the session and can't tell the registry yet.
    for (const { near } of wire.pairs) near.pause();
    const client = connect(slow, withCookie(cookie, { reconnection: false }));
    let answer;
    try {
      await eventually('the session is looked up', async () => (await looks(store)) > before, { every: 5 });
      answer = await desk.api.revokeTokens(user);
    } finally {
      for (const { near } of wire.pairs) near.resume();
    }
    assert.ok(answer.revokedBefore);
    const outcome = await Promise.race([client.wait('connect_error').then(([error]) => error.message), client.wait('disconnect').then(() => 'cut'), client.wait('ready').then(() => 'let in')]);
    assert.notEqual(outcome, 'let in', `expected the client not to be let in by what was read before the revocation (round ${round})`);
    if (outcome === 'Token revoked') {
      await connected(desk, withCookie(cookie));
      return;
    }
    // The registry was away for too long, so it was sent away to try again: that says nothing.
    note(`round ${round}: ${outcome}`);
    await eventually('the node is ready', async () => (await slow.api.request('GET', '/readyz')).status === 200, { ms: 20000 });
  }
  assert.fail(`expected one of ${rounds} handshakes to be decided before the node gave up on the registry`);
});

test('a node that was away for the revocation ends those who came before it, and no others', { ms: 120000 }, async ({ node, redis, link }) => {
  const [cluster, store] = [await redis(), await redis()];
  const wire = await link(cluster);
  const env = cookies(store);
  const [near, far] = await Promise.all([node({ redis: cluster, name: 'near', env }), node({ redis: wire, name: 'far', env })]);
  const [older, newer] = [someone('older'), someone('newer')];
  const [of, ofNewer] = [await plant(store, older), await plant(store, newer)];
  await near.api.revokeTokens(newer);
  const gone = await connected(far, withCookie(of, { reconnection: false }));
  const stays = await connected(far, withCookie(ofNewer, { reconnection: false }));
  wire.cut();
  await near.api.request('POST', `/v1/users/${older}/revoke-tokens`, { json: {} });
  await eventually('the lease of the node is over', async () => (await near.api.user(newer)).online === false, { ms: 40000 });
  wire.heal();
  await gone.kicked(4502, 'Token revoked');
  await eventually('the other is listed again', async () => (await near.api.user(newer)).connections.some((one) => one.id === stays.id), { ms: 40000 });
  assert.equal(stays.count('disconnect'), 0, `expected who came after the revocation to stay; history: ${stays.history()}`);
  await connected(near, withCookie(of));
});
