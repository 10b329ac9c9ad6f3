// Contract 2 and 3: bans and revocations, in the whole cluster, for as long as they are meant to last, and also where a
// node did not hear of them.

import assert from 'node:assert/strict';
import jwt from 'jsonwebtoken';
import { clockPasses, connect, connected, eventually, expectProblem, JWT_SECRET, onBothRegistries, Polling, RawSocket, segment, someone, soon, test, token } from './harness.mjs';

const NOT_BANNED = { banned: false, reason: null, until: null };
const NOBODY = { disconnected: 0, nodes: 0, remaining: [] };
const iso = (seconds) => new Date(seconds * 1000).toISOString();
/** A token as it would have been issued `seconds` ago. */
const issued = (user, seconds, claims = {}) => token(user, { iat: soon(-seconds), ...claims });

onBothRegistries((world) => {
  /** The user on every node, and in a second namespace. */
  const everywhere = async (user, options = {}) => {
    const roots = await Promise.all([world.door, world.desk].map((at) => connected(at, { user, ...options, label: `${user} on ${at.name}` })));
    const open = roots[0].join('/public');
    await open.ready();
    return [...roots, open];
  };
  /** Every node's door says the same. */
  const refusedEverywhere = async (message, options) => {
    for (const at of [world.door, world.desk]) {
      await connect(at, options).refused(message);
    }
  };

  test('a ban: 4501 for all who are connected, "User banned" at every door, until it is lifted', async () => {
    const user = someone('banned');
    const bystander = await connected(world.door, { user: someone('bystander') });
    const clients = await everywhere(user);
    assert.deepEqual(await world.api.banOf(user), NOT_BANNED);
    assert.deepEqual(await world.api.ban(user, { reason: 'spam' }), { banned: true, reason: 'spam', until: null, disconnected: clients.length, nodes: world.count, remaining: [] });
    assert.equal((await world.api.user(user)).online, false, 'expected nobody to be listed once the ban has answered');
    for (const client of clients) await client.kicked(4501, 'spam');
    assert.deepEqual(await world.api.banOf(user), { banned: true, reason: 'spam', until: null });
    assert.deepEqual(await world.door.api.banOf(user), { banned: true, reason: 'spam', until: null });
    assert.equal((await world.api.user(user)).banned, true);
    await refusedEverywhere('User banned', { user });
    await refusedEverywhere('User banned', { user, claims: { role: 'admin' }, namespace: '/admin' });
    await connect(world.door, { auth: {}, extraHeaders: { authorization: `Bearer ${token(user)}` } }).refused('User banned');
    assert.equal(bystander.count('disconnect'), 0);

    assert.deepEqual(await world.api.unban(user), NOT_BANNED);
    assert.deepEqual(await world.api.banOf(user), NOT_BANNED);
    assert.equal((await world.api.user(user)).banned, false);
    for (const at of [world.door, world.desk]) await connected(at, { user });
    assert.deepEqual(await world.api.unban(user), NOT_BANNED, 'expected lifting a ban that is not there to be no error');
  });

  test('who is spared while the tokens of its user are revoked stays, also when the node asserts it anew', async () => {
    const user = someone('spared');
    const credentials = issued(user, 60);
    const session = await Polling.open(world.door.url);
    await session.connect({ token: credentials });
    const [{ id }] = (await world.api.user(user)).connections;
    const other = await connected(world.desk, { auth: { token: credentials } });
    assert.deepEqual(await world.api.disconnect(user, { except: [id], revokeTokens: true }), { disconnected: 1, nodes: 1, remaining: [] });
    await other.kicked(4500);
    const raw = new RawSocket(world.door.url, { sid: session.sid });
    await new Promise((resolve, reject) => raw.ws.on('open', resolve).on('error', reject));
    raw.ws.send('2probe');
    await raw.until(/^3probe$/);
    raw.ws.send('5');
    await eventually('it is listed with its new transport', async () => assert.deepEqual((await world.api.user(user)).connections.map((one) => [one.id, one.transport]), [[id, 'websocket']]));
    assert.deepEqual(raw.packets.filter((packet) => packet.includes('forceDisconnect')), []);
    await connect(world.door, { auth: { token: credentials } }).refused('Token revoked');
  });

  test('a ban without a reason says "User banned"', async () => {
    const user = someone('banned');
    const client = await connected(world.door, { user });
    assert.deepEqual(await world.api.ban(user), { banned: true, reason: null, until: null, disconnected: 1, nodes: 1, remaining: [] });
    await client.kicked(4501, 'User banned');
  });

  test('a second ban replaces the first', async () => {
    const user = someone('banned');
    await world.api.ban(user, { reason: 'first', until: iso(soon(600)) });
    assert.deepEqual(await world.api.ban(user, { reason: 'second' }), { banned: true, reason: 'second', until: null, ...NOBODY });
    assert.deepEqual(await world.api.banOf(user), { banned: true, reason: 'second', until: null });
  });

  test('a ban until a moment from now ends by itself', async () => {
    const user = someone('paused');
    const client = await connected(world.door, { user });
    const until = iso(soon(6));
    const answer = await world.api.ban(user, { until });
    assert.deepEqual([answer.banned, Date.parse(answer.until)], [true, Date.parse(until)]);
    await client.kicked(4501);
    await refusedEverywhere('User banned', { user });
    await eventually('the user gets in again after "until"', async () => assert.equal(await connect(world.door, { user }).outcome(), 'ready'), { ms: 15000, every: 200 });
    assert.ok(Date.now() >= Date.parse(until) - 1000, 'expected the ban to hold until its end');
    assert.deepEqual(await world.api.banOf(user), NOT_BANNED);
    assert.equal((await world.api.user(user)).banned, false);
  });

  test('a ban until a moment ago bans nobody', async () => {
    const user = someone('forgiven');
    const answer = await world.api.request('PUT', `/v1/users/${user}/ban`, { json: { until: iso(soon(-60)) } });
    if (answer.status === 200) assert.equal(answer.json.banned, false, answer.text);
    else expectProblem(answer, [400, 422], 'a ban until a moment ago');
    assert.deepEqual(await world.api.banOf(user), NOT_BANNED);
    await connected(world.door, { user });
  });

  for (const [what, body] of [['an until that is no time', { until: 'tomorrow' }], ['an until that is a number', { until: 42 }], ['a reason that is none', { reason: {} }], ['no object', []]]) {
    test(`a ban with ${what} is malformed, and bans nobody`, async () => {
      const user = someone('unharmed');
      const client = await connected(world.door, { user });
      expectProblem(await world.api.request('PUT', `/v1/users/${user}/ban`, { json: body }), [400, 422], `a ban with ${what}`);
      assert.deepEqual(await world.api.banOf(user), NOT_BANNED);
      assert.equal(client.socket.connected, true);
    });
  }

  test('a user who is banned before ever being seen is refused; names are taken as they are', async () => {
    for (const user of [someone('unseen'), `${someone('odd')}/../ban`, `${someone('odd')} {x}*?[é😀]`]) {
      await world.api.ban(user);
      await refusedEverywhere('User banned', { user });
      await connected(world.door, { user: `${user}x` });
    }
  });

  test('a banned user gets into /public neither, but a guest does', async () => {
    const user = someone('banned');
    await world.api.ban(user);
    await refusedEverywhere('User banned', { user, namespace: '/public' });
    const guest = connect(world.door, { auth: {}, namespace: '/public' });
    await guest.ready();
    await guest.denied('User banned', 'authenticate', token(user));
    assert.equal((await world.api.connection(guest.id)).userId, null);
  });

  test('both namespaces of one transport are told before it closes, however close together they end', async () => {
    // Whether one end overtakes the other's goodbye is chance, so it is tried often.
    for (let round = 0; round < 60; round += 1) {
      const user = someone('both');
      const root = await connected(world.door, { user, reconnection: false, label: `round ${round}: ${user}` });
      const open = root.join('/public');
      await open.ready();
      if (round % 2) await world.api.ban(user);
      else await world.api.disconnect(user);
      for (const client of [root, open]) await client.kicked(round % 2 ? 4501 : 4500);
    }
  });

  test('a ban over HTTP polling ends the session', async () => {
    const user = someone('banned');
    const session = await Polling.open(world.door.url);
    await session.connect({ token: token(user) });
    await world.api.ban(user);
    await session.refused();
  });

  test('revoke-tokens: older tokens are refused, their connections end with 4502, newer ones pass', async () => {
    const user = someone('revoked');
    const old = issued(user, 10);
    const clients = await everywhere(user, { token: old });
    const before = Date.now();
    const answer = await world.api.revokeTokens(user);
    assert.deepEqual(Object.keys(answer).sort(), ['disconnected', 'nodes', 'remaining', 'revokedBefore']);
    assert.equal(answer.disconnected, 3);
    const revokedBefore = Date.parse(answer.revokedBefore);
    assert.ok(revokedBefore >= before - 1000 && revokedBefore <= Date.now() + 1000, `expected revokedBefore to be now, got ${answer.revokedBefore}`);
    assert.equal((await world.api.user(user)).online, false, 'expected nobody to be listed once revoke-tokens has answered');
    for (const client of clients) await client.kicked(4502, 'Token revoked');
    await refusedEverywhere('Token revoked', { token: old });
    await refusedEverywhere('Token revoked', { token: old, namespace: '/public' });
    await refusedEverywhere('Token revoked', { token: issued(user, 1) });
    // A token without iat could be as old as any.
    await refusedEverywhere('Token revoked', { token: jwt.sign({ sub: user, exp: soon(600) }, JWT_SECRET, { noTimestamp: true }) });

    await clockPasses(Math.ceil(revokedBefore / 1000) * 1000 + 1000);
    const fresh = token(user);
    for (const at of [world.door, world.desk]) await connected(at, { token: fresh });
    await refusedEverywhere('Token revoked', { token: old });
    assert.equal((await world.api.user(user)).banned, false, 'expected a revocation to be no ban');
  });

  test('revoke-tokens: a token of the very second of the call does not slip through', async () => {
    const user = someone('second');
    const same = token(user);
    const client = await connected(world.door, { token: same });
    const { revokedBefore } = await world.api.revokeTokens(user);
    assert.ok(jwt.decode(same).iat * 1000 <= Date.parse(revokedBefore), 'expected the token to be older than the call');
    await client.kicked(4502);
    await refusedEverywhere('Token revoked', { token: same });
  });

  test('revoke-tokens: a token whose iat is yet to come is as old as its first use', async () => {
    const user = someone('ahead');
    // Two seconds are inside the leeway: by an issuer whose clock is ahead, every token is like that.
    const ahead = issued(user, -2);
    const refused = issued(user, -2, { jti: `${user}-refused` });
    await world.api.ban(user);
    await connect(world.door, { token: refused }).refused('User banned');
    await world.api.unban(user);
    const clients = await everywhere(user, { token: ahead });
    const { disconnected, revokedBefore } = await world.api.revokeTokens(user);
    assert.ok(jwt.decode(ahead).iat * 1000 > Date.parse(revokedBefore), 'expected the token to say that it is newer than the call');
    assert.equal(disconnected, clients.length);
    for (const client of clients) await client.kicked(4502, 'Token revoked');
    const remain = async () => {
      for (const token of [ahead, refused]) await refusedEverywhere('Token revoked', { token });
    };
    await remain();
    // Of the same issuer, but first used after the call.
    const fresh = await connected(world.desk, { token: issued(user, -2, { jti: `${user}-fresh` }) });
    await clockPasses((jwt.decode(ahead).iat + 1) * 1000);
    await remain();
    await connected(world.door, { token: token(user) });
    assert.equal(fresh.count('disconnect'), 0, `expected a token of after the call to hold; history: ${fresh.history()}`);
  });

  test('revoke-tokens with issuedBefore: exactly those', async () => {
    const user = someone('before');
    const [older, newer] = [issued(user, 100), issued(user, 20)];
    const [gone, stays] = [await connected(world.door, { token: older }), await connected(world.door, { token: newer })];
    const issuedBefore = iso(soon(-50));
    const answer = await world.api.revokeTokens(user, { issuedBefore });
    assert.deepEqual([answer.disconnected, Date.parse(answer.revokedBefore)], [1, Date.parse(issuedBefore)]);
    await gone.kicked(4502, 'Token revoked');
    await refusedEverywhere('Token revoked', { token: older });
    await connected(world.desk, { token: newer });
    assert.equal(stays.count('disconnect'), 0, `expected a newer token's connection to stay; history: ${stays.history()}`);

    // An earlier time takes nothing back.
    await world.api.revokeTokens(user, { issuedBefore: iso(soon(-3600)) });
    await refusedEverywhere('Token revoked', { token: older });
    assert.equal(stays.count('disconnect'), 0);
  });

  test('revoke-tokens: issuedBefore that is no time is malformed, and revokes nothing', async () => {
    const user = someone('unharmed');
    const client = await connected(world.door, { user });
    for (const issuedBefore of ['now', 42, '']) {
      expectProblem(await world.api.request('POST', `/v1/users/${user}/revoke-tokens`, { json: { issuedBefore } }), [400, 422], `issuedBefore ${JSON.stringify(issuedBefore)}`);
    }
    await connected(world.door, { user });
    assert.equal(client.count('disconnect'), 0);
  });

  test('revoke-tokens: other users\' tokens stay good, and so does a guest', async () => {
    const [user, other] = [someone('revoked'), someone('other')];
    const stays = [await connected(world.door, { token: issued(other, 10) }), await connected(world.door, { auth: {}, namespace: '/public' })];
    await world.api.revokeTokens(user);
    await connected(world.desk, { token: issued(other, 10) });
    for (const one of stays) assert.equal(one.count('disconnect'), 0);
  });

  test('a connection whose token was refreshed in time is not ended by what concerns the old token', async () => {
    const user = someone('refreshed');
    const client = await connected(world.door, { token: issued(user, 100, { jti: `${user}-old` }) });
    await client.granted('refreshToken', issued(user, 10, { jti: `${user}-new` }));
    assert.equal((await world.api.revokeToken(`${user}-old`)).disconnected, 0);
    assert.equal((await world.api.revokeTokens(user, { issuedBefore: iso(soon(-50)) })).disconnected, 0);
    await client.granted('devices');
    assert.equal(client.count('disconnect'), 0);
    assert.equal((await world.api.revokeToken(`${user}-new`)).disconnected, 1);
    await client.kicked(4502);
  });

  test('tokens/revoke: one token by its jti, wherever it is used, and no other', async () => {
    const user = someone('jti');
    const [one, two] = [token(user, { jti: `${user}-1` }), token(user, { jti: `${user}-2` })];
    const gone = await Promise.all([world.door, world.desk].map((at) => connected(at, { token: one })));
    const stays = await connected(world.door, { token: two });
    assert.deepEqual(await world.api.revokeToken(`${user}-1`), { disconnected: 2, nodes: world.count, remaining: [] });
    for (const client of gone) await client.kicked(4502, 'Token revoked');
    await refusedEverywhere('Token revoked', { token: one });
    await connected(world.desk, { token: two });
    await connected(world.desk, { user });
    assert.equal(stays.count('disconnect'), 0);
    assert.deepEqual(await world.api.revokeToken(`${user}-1`), NOBODY, 'expected it to be repeatable');
  });

  test('tokens/revoke: a jti that nobody uses yet, and the same jti of another user', async () => {
    const [user, other] = [someone('jti'), someone('jti')];
    const jti = `${user}-shared`;
    assert.deepEqual(await world.api.revokeToken(jti, { expiresAt: iso(soon(3600)) }), NOBODY);
    await refusedEverywhere('Token revoked', { token: token(user, { jti }) });
    await refusedEverywhere('Token revoked', { token: token(other, { jti }) });
  });

  for (const [what, body] of [['no jti', {}], ['an empty jti', { jti: '' }], ['a jti that is an object', { jti: {} }], ['an expiresAt that is no time', { jti: 'x', expiresAt: 'soon' }]]) {
    test(`tokens/revoke with ${what} is malformed`, async () => {
      expectProblem(await world.api.request('POST', '/v1/tokens/revoke', { json: body }), [400, 422], `tokens/revoke with ${what}`);
    });
  }

  test('disconnect with revokeTokens: 4500, and the tokens are good no more', async () => {
    const user = someone('out');
    const given = token(user);
    const clients = await everywhere(user, { token: given });
    assert.deepEqual(await world.api.disconnect(user, { reason: 'Account suspended', revokeTokens: true }), { disconnected: 3, nodes: world.count, remaining: [] });
    for (const client of clients) await client.kicked(4500, 'Account suspended');
    await refusedEverywhere('Token revoked', { token: given });
    await clockPasses(Date.now() + 1100);
    await connected(world.door, { user });
  });

  test('disconnect without revokeTokens: the same token gets in again', async () => {
    const user = someone('kicked');
    const given = token(user);
    const client = await connected(world.door, { token: given });
    await world.api.disconnect(user);
    await client.kicked(4500);
    await connected(world.door, { token: given });
  });

  test('the rights: bans and revocations ask for more than scope read', async () => {
    const user = someone('guarded');
    for (const [method, path, json] of [['PUT', `/v1/users/${user}/ban`, {}], ['DELETE', `/v1/users/${user}/ban`], ['POST', `/v1/users/${user}/revoke-tokens`, {}], ['POST', '/v1/tokens/revoke', { jti: 'x' }]]) {
      expectProblem(await world.api.request(method, path, { json, key: 'a-wrong-key-0123456789' }), 401, `${method} ${path} with a wrong key`);
      expectProblem(await world.api.request(method, path, { json, key: 'read-key-of-the-tests-0123456789' }), 403, `${method} ${path} with scope read`);
      expectProblem(await world.api.request(method, path, { json, key: token(user) }), [401, 403], `${method} ${path} with a user's token`);
    }
    assert.deepEqual(await world.api.banOf(user), NOT_BANNED);
  });
}, { config: '[[api.keys]]\nname = "reader"\nkey = "read-key-of-the-tests-0123456789"\nscopes = ["read"]\n' });

// --- lasting ----------------------------------------------------------------------------------------------------------

test('bans and revocations outlive the restart of every node', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const first = await Promise.all(['n1', 'n2'].map((name) => node({ redis: store, name })));
  const [banned, paused, revoked, out, byJti] = ['banned', 'paused', 'revoked', 'out', 'jti'].map(someone);
  const until = iso(soon(3600));
  const tokens = { revoked: issued(revoked, 10), out: issued(out, 10), jti: token(byJti, { jti: 'the-jti' }) };
  await first[0].api.ban(banned, { reason: 'spam' });
  await first[0].api.ban(paused, { until });
  await first[1].api.revokeTokens(revoked);
  await first[1].api.disconnect(out, { revokeTokens: true });
  await first[0].api.revokeToken('the-jti');
  first[0].signal('SIGTERM');
  await first[0].end();
  await first[1].kill();

  const second = await Promise.all(['n1', 'n3'].map((name) => node({ redis: store, name })));
  for (const at of second) {
    await connect(at, { user: banned }).refused('User banned');
    await connect(at, { user: paused }).refused('User banned');
    for (const given of Object.values(tokens)) await connect(at, { token: given }).refused('Token revoked');
    assert.deepEqual(await at.api.banOf(banned), { banned: true, reason: 'spam', until: null });
    assert.equal(Date.parse((await at.api.banOf(paused)).until), Date.parse(until));
  }
  await connected(second[0], { token: token(byJti, { jti: 'another' }) });
  await second[0].api.unban(banned);
  await connected(second[1], { user: banned });
});

test('what is kept of revocations goes away with the tokens that it is about', async ({ node, redis }) => {
  const store = await redis();
  const door = await node({ redis: store });
  await door.api.revokeToken('a-jti-that-ends-soon', { expiresAt: iso(soon(2)) });
  await door.api.ban('a-user-that-is-banned-for-a-moment', { until: iso(soon(3)) });
  assert.ok((await store.everything()).includes('ban:a-user-that-is-banned-for-a-moment'), 'expected this look into Redis to find a ban that holds');
  await eventually('Redis holds nothing of them', async () => {
    const held = await store.everything();
    assert.ok(!held.includes('a-jti-that-ends-soon'), 'the jti is held');
    assert.ok(!held.includes('ban:a-user-that-is-banned-for-a-moment'), 'the ban is held');
  }, { ms: 30000, every: 500 });
});

// --- nodes that did not hear of it --------------------------------------------------------------------------------------

/** What the cluster is told, and how those that it concerns end. */
const VERBS = {
  'a ban': { act: (api, user) => api.request('PUT', `/v1/users/${segment(user)}/ban`, { json: {} }), codes: [4501], message: 'User banned' },
  'revoke-tokens': { act: (api, user) => api.request('POST', `/v1/users/${segment(user)}/revoke-tokens`, { json: {} }), codes: [4502], message: 'Token revoked' },
  'tokens/revoke': { act: (api, user) => api.request('POST', '/v1/tokens/revoke', { json: { jti: user } }), codes: [4502], message: 'Token revoked' },
  'disconnect with revokeTokens': { act: (api, user) => api.request('POST', `/v1/users/${segment(user)}/disconnect`, { json: { revokeTokens: true } }), codes: [4500, 4502], message: 'Token revoked' },
};

/** Holds a client to having been ended for good with one of `codes`. */
async function ended(client, codes) {
  await client.wait('disconnect', { ms: 15000 });
  await client.kicked(codes.includes(client.told().code) ? client.told().code : codes[0]);
}

for (const [way, break_] of [['is cut off from Redis', (link) => link.cut()], ['hears nothing of the other nodes', (link) => link.mute()]]) {
  test(`a node that ${way} meanwhile learns of it when it is back`, { ms: 120000 }, async ({ node, redis, link }) => {
    const store = await redis();
    const wire = await link(store);
    const [near, far] = await Promise.all([node({ redis: store, name: 'near' }), node({ redis: wire, name: 'far' })]);
    const cases = await Promise.all(Object.entries(VERBS).map(async ([verb, { act, codes, message }]) => {
      const user = someone('missed');
      const given = issued(user, 10, { jti: user });
      const [here, there] = await Promise.all([near, far].map((at) => connected(at, { token: given, reconnection: false, label: `${verb}: the client on ${at.name}` })));
      return { verb, act, codes, message, user, given, here, there };
    }));
    const bystander = await connected(far, { user: someone('bystander') });

    break_(wire);
    await Promise.all(cases.map(async ({ verb, act, user, codes, here }) => {
      const answer = await act(near.api, user);
      assert.ok([200, 202].includes(answer.status), `expected ${verb} to be answered with 200 or 202 while a node ${way}, got ${answer.status}: ${answer.text}`);
      await ended(here, codes);
    }));
    wire.heal();
    for (const { codes, there } of cases) await ended(there, codes);
    await eventually('the node that is back is ready', async () => (await far.api.request('GET', '/readyz')).status === 200, { ms: 20000 });
    for (const { user, given, message } of cases) {
      await eventually('nothing is listed of those whom it concerned', async () => (await near.api.user(user)).online === false);
      for (const at of [near, far]) await connect(at, { token: given }).refused(message);
    }
    assert.equal(bystander.count('disconnect'), 0, `expected nobody else to be touched; history: ${bystander.history()}`);
  });
}

test('with Redis cutting the subscriptions off all the time, whoever is concerned is ended all the same', { ms: 90000 }, async ({ node, redis }) => {
  const store = await redis();
  const [one, two] = await Promise.all(['n1', 'n2'].map((name) => node({ redis: store, name })));
  const cases = await Promise.all(Array.from({ length: 3 }, () => Object.values(VERBS)).flat().map(async (verb) => {
    const user = someone('missed');
    const given = issued(user, 10, { jti: user });
    return { ...verb, user, given, clients: await Promise.all([one, two].map((at) => connected(at, { token: given, reconnection: false }))) };
  }));
  let busy = true;
  const killing = (async () => {
    while (busy) await store.command('CLIENT', 'KILL', 'TYPE', 'pubsub');
  })();
  try {
    await Promise.all(cases.map(async ({ act, user }) => {
      const answer = await act(one.api, user);
      assert.ok([200, 202].includes(answer.status), `expected 200 or 202, got ${answer.status}: ${answer.text}`);
    }));
  } finally {
    busy = false;
    await killing;
  }
  for (const { codes, clients } of cases) for (const client of clients) await ended(client, codes);
  for (const at of [one, two]) await eventually(`${at.name} is ready again`, async () => (await at.api.request('GET', '/readyz')).status === 200, { ms: 20000 });
  for (const { user, given, message } of cases) {
    await eventually('nothing is listed', async () => (await one.api.user(user)).online === false);
    await connect(two, { token: given }).refused(message);
  }
});

test('while Redis is away nothing is promised: 503, and no half a ban', { ms: 60000 }, async ({ node, redis }) => {
  const store = await redis();
  const door = await node({ redis: store });
  const user = someone('unreachable');
  const client = await connected(door, { user });
  await store.stop();
  await eventually('/readyz answers 503', async () => (await door.api.request('GET', '/readyz')).status === 503, { ms: 15000 });
  for (const { act } of Object.values(VERBS)) expectProblem(await act(door.api, user), 503, 'a ban or revocation while Redis is away');
  expectProblem(await door.api.request('GET', `/v1/users/${user}/ban`), 503, 'GET ban while Redis is away');
  await store.start();
  await eventually('/readyz answers 200', async () => (await door.api.request('GET', '/readyz')).status === 200, { ms: 20000 });
  assert.deepEqual(await door.api.banOf(user), NOT_BANNED);
  assert.equal(client.count('disconnect'), 0, client.history());
});
