// Contract 5: cookies and sessions as express-session and connect-redis make them, looked at for as long as a connection lives.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import WebSocket from 'ws';
import { clockPasses, connect, connected, eventually, exchange, onBothRegistries, Polling, RawSocket, someone, startRedis, test, token } from './harness.mjs';
import { SESSION_SECRET, signedCookie, startExpress } from './support/express.mjs';

const OLD_SECRET = 'the-session-secret-before-0123456789';
const FRIEND = 'https://app.example';
const EVIL = 'https://evil.example';
const RECHECK = 300;

/** The environment of a node that takes the cookies of the application; `world.store` is where its sessions are. */
const settings = (more = {}) => async (world) => {
  world.store = world.redis;
  const env = { SWITCHBOARD_AUTH__SESSION__SECRETS: `${SESSION_SECRET},${OLD_SECRET}`, SWITCHBOARD_AUTH__SESSION__RECHECK: `${RECHECK}ms`, SWITCHBOARD_CORS__ALLOWED_ORIGINS: FRIEND, ...more };
  if (!world.store) {
    world.store = await startRedis();
    world.owned(() => world.store.stop());
    env.SWITCHBOARD_AUTH__SESSION__REDIS_URL = world.store.url;
  }
  return env;
};

const withCookie = (cookie, more = {}) => ({ auth: {}, extraHeaders: { cookie, ...more } });

/** Puts a session into Redis as it is, and returns its cookie. */
async function plant(world, id, session, { secret, command } = {}) {
  if (command) await world.store.command(...command(`sess:${id}`));
  else if (session !== undefined) await world.store.command('SET', `sess:${id}`, typeof session === 'string' ? session : JSON.stringify(session));
  return `connect.sid=${signedCookie(id, secret)}`;
}
const session = (fields, cookie = {}) => ({ cookie: { originalMaxAge: null, expires: null, httpOnly: true, path: '/', ...cookie }, ...fields });
const sign = (id, secret = SESSION_SECRET) => createHmac('sha256', secret).update(id).digest('base64').replace(/=+$/, '');

onBothRegistries((world) => {
  /** An application that ends with the test. */
  const application = async (owned, options = {}) => {
    const app = await startExpress({ redis: world.store, ...options });
    owned(app.stop);
    return app;
  };

  for (const [where, fields] of [['/userId', (user) => ({ userId: user })], ['/user/id', (user) => ({ user: { id: user } })], ['/passport/user', (user) => ({ passport: { user } })]]) {
    for (const transport of ['websocket', 'polling']) {
      test(`the cookie of a login is taken, with the user at ${where} (${transport})`, async ({ owned }) => {
        const app = await application(owned);
        const user = someone('cookie');
        const browser = await app.browser().login({ ...fields(user), username: 'Ada', role: 'editor' });
        const client = connect(world.door, { ...withCookie(browser.cookie), transports: [transport] });
        const ready = await client.ready();
        assert.deepEqual([ready.userId, ready.username, ready.role], [user, 'Ada', 'editor']);
        assert.deepEqual((await world.api.user(user)).connections.map((one) => [one.id, one.transport]), [[client.id, transport]]);
        await world.api.send(user, 'news', 1);
        await client.wait('news');
        await world.api.disconnect(user);
        await client.kicked(4500);
      });
    }
  }

  test('a user id that is a number is kept as a string', async ({ owned }) => {
    const app = await application(owned);
    const browser = await app.browser().login({ userId: 4711 });
    assert.equal((await connect(world.door, withCookie(browser.cookie)).ready()).userId, '4711');
  });

  test('several secrets: the application may sign with any of them', async ({ owned }) => {
    for (const secrets of [[SESSION_SECRET], [OLD_SECRET], [OLD_SECRET, 'unknown-to-the-node']]) {
      const app = await application(owned, { secrets });
      const user = someone('rotated');
      const browser = await app.browser().login({ userId: user });
      assert.equal((await connect(world.door, withCookie(browser.cookie)).ready()).userId, user);
    }
    const app = await application(owned, { secrets: ['a-secret-that-the-node-does-not-know', SESSION_SECRET] });
    const browser = await app.browser().login({ userId: 'x' });
    await connect(world.door, withCookie(browser.cookie)).refused('Not authenticated');
  });

  test('the cookie is found among others, and goes behind a token', async ({ owned }) => {
    const app = await application(owned);
    const [user, other] = [someone('cookie'), someone('token')];
    const { cookie } = await app.browser().login({ userId: user });
    assert.equal((await connect(world.door, withCookie(`a=b; theme="dark"; ${cookie}; z=s%3Ax.y`)).ready()).userId, user);
    assert.equal((await connect(world.door, { ...withCookie(cookie), auth: { token: token(other) } }).ready()).userId, other, 'expected auth.token to go before the cookie');
    assert.equal((await connect(world.door, withCookie(cookie, { authorization: `Bearer ${token(other)}` })).ready()).userId, other, 'expected the header to go before the cookie');
    await connect(world.door, { ...withCookie(cookie), auth: { token: 'rubbish' } }).refused('Invalid token');
  });

  test('/admin asks for the role in the session; /public takes a session, or a guest', async ({ owned }) => {
    const app = await application(owned);
    const [user, admin] = [someone('user'), someone('admin')];
    const plain = await app.browser().login({ userId: user, role: 'editor' });
    const chief = await app.browser().login({ userId: admin, role: 'admin' });
    const nobody = await app.browser().login({ basket: ['tea'] });
    await connect(world.door, { ...withCookie(plain.cookie), namespace: '/admin' }).refused('Admin access required');
    assert.equal((await connect(world.door, { ...withCookie(chief.cookie), namespace: '/admin' }).ready()).role, 'admin');
    assert.equal((await connect(world.door, { ...withCookie(plain.cookie), namespace: '/public' }).ready()).userId, user);
    assert.equal((await connect(world.door, { ...withCookie(nobody.cookie), namespace: '/public' }).ready()).userId, null, 'expected a visitor who is not logged in to be a guest');
    await connect(world.door, withCookie(nobody.cookie)).refused('Not authenticated');
  });

  // --- while it lives -----------------------------------------------------------------------------------------------

  test('a logout ends the connections of the session with 4503, on every node and in every namespace, and no others', async ({ owned }) => {
    const app = await application(owned);
    const user = someone('leaver');
    const [browser, elsewhere] = [await app.browser().login({ userId: user }), await app.browser().login({ userId: user })];
    const clients = await Promise.all([world.door, world.desk].map((at) => connected(at, withCookie(browser.cookie))));
    clients.push(clients[0].join('/public', { auth: {} }));
    await clients[2].ready();
    const stays = [await connected(world.door, withCookie(elsewhere.cookie)), await connected(world.door, { user })];
    await browser.logout();
    for (const client of clients) await client.kicked(4503, 'Session ended');
    await eventually('only the others are listed', async () => {
      assert.deepEqual((await world.api.user(user)).connections.map((one) => one.id).sort(), stays.map((one) => one.id).sort());
    });
    for (const client of stays) assert.equal(client.count('disconnect'), 0, `expected another session and a token to be left alone; ${client.label} got: ${client.history()}`);
    await connect(world.door, withCookie(browser.cookie)).refused('Not authenticated');
  });

  for (const [what, change] of [
    ['another user', (user) => ({ userId: `${user}-other` })],
    ['no user any more', () => ({ userId: null })],
    ['another role', () => ({ role: 'reader' })],
    ['no role any more', () => ({ role: null })],
  ]) {
    test(`a session with ${what} ends its connections with 4503`, async ({ owned }) => {
      const app = await application(owned);
      const user = someone('changed');
      const browser = await app.browser().login({ userId: user, role: 'editor' });
      const client = await connected(world.door, withCookie(browser.cookie));
      await browser.change(change(user));
      await client.kicked(4503, 'Session ended');
    });
  }

  test('a new login in the same browser ends the connections of the session before', async ({ owned }) => {
    const app = await application(owned);
    const user = someone('again');
    const browser = await app.browser().login({ userId: user });
    const client = await connected(world.door, withCookie(browser.cookie));
    await browser.login({ userId: user });
    await client.kicked(4503, 'Session ended');
    await connected(world.door, withCookie(browser.cookie));
  });

  test('what does not concern the user is left alone: a basket, a visit, another name for the same id', async ({ owned }) => {
    const app = await application(owned, { rolling: true, cookie: { maxAge: 60_000 } });
    const user = someone('busy');
    const [browser, leaver] = [await app.browser().login({ userId: user, role: 'editor' }), await app.browser().login({ userId: someone('leaver') })];
    const client = await connected(world.door, withCookie(browser.cookie));
    const witness = await connected(world.door, withCookie(leaver.cookie));
    await browser.change({ basket: ['tea'] });
    await browser.visit();
    // The end of another session, logged out afterwards, tells that sessions have been looked at meanwhile.
    await leaver.logout();
    await witness.kicked(4503);
    await browser.visit();
    await clockPasses(Date.now() + 2 * RECHECK);
    await client.granted('devices');
    assert.equal(client.count('disconnect'), 0, client.history());
  });

  test('a session that is kept alive by visits stays; one that is not ends when it expires', async ({ owned }) => {
    const app = await application(owned, { rolling: true, cookie: { maxAge: 2500 } });
    const [kept, left] = await Promise.all(['kept', 'left'].map((kind) => app.browser().login({ userId: someone(kind) })));
    const [client, gone] = await Promise.all([kept, left].map((browser) => connected(world.door, withCookie(browser.cookie))));
    let over = false;
    const visiting = (async () => {
      while (!over) {
        await kept.visit();
        await clockPasses(Date.now() + 300);
      }
    })();
    try {
      await gone.kicked(4503, 'Session ended');
      await client.granted('devices');
      assert.equal(client.count('disconnect'), 0, `expected a session in use to live on; history: ${client.history()}`);
    } finally {
      over = true;
      await visiting;
    }
    await connect(world.door, withCookie(left.cookie)).refused('Not authenticated');
  });

  test('the expiry in the session\'s JSON counts, also where Redis would keep it for ever', async () => {
    const user = someone('expiring');
    const past = await plant(world, `past-${user}`, session({ userId: user }, { originalMaxAge: 1000, expires: new Date(Date.now() - 1000).toISOString() }));
    await connect(world.door, withCookie(past)).refused('Not authenticated');
    const near = await plant(world, `near-${user}`, session({ userId: user }, { originalMaxAge: 3000, expires: new Date(Date.now() + 3000).toISOString() }));
    const client = await connected(world.door, withCookie(near));
    await client.kicked(4503, 'Session ended');
    const far = await plant(world, `far-${user}`, session({ userId: user }, { originalMaxAge: 600_000, expires: new Date(Date.now() + 600_000).toISOString() }));
    await connected(world.door, withCookie(far));
  });

  test('a session that turns into rubbish ends its connections, and none of the others', async ({ owned }) => {
    const app = await application(owned);
    const broken = [];
    for (const [i, make] of [(key) => ['SET', key, '{'], (key) => ['SET', key, '[]'], (key) => ['SET', key, '\xff\xfe'], (key) => ['DEL', key]].entries()) {
      const id = `broken-${i}-${someone()}`;
      const cookie = await plant(world, id, session({ userId: someone('broken') }));
      broken.push({ make, id, client: await connected(world.door, withCookie(cookie)) });
    }
    // A key of another type makes Redis refuse to read it; that must not hide the others that are read along with it.
    const id = `typed-${someone()}`;
    const typed = await connected(world.door, withCookie(await plant(world, id, session({ userId: someone('typed') }))));
    const browser = await app.browser().login({ userId: someone('sound') });
    const sound = await connected(world.door, withCookie(browser.cookie));
    await world.store.command('DEL', `sess:${id}`);
    await world.store.command('HSET', `sess:${id}`, 'a', 'b');
    for (const one of broken) await world.store.command(...one.make(`sess:${one.id}`));
    for (const { client } of broken) await client.kicked(4503, 'Session ended');
    await typed.kicked(4503);
    await sound.granted('devices');
    assert.equal(sound.count('disconnect'), 0, sound.history());
    await browser.logout();
    await sound.kicked(4503);
  });

  test('fifty sessions at once: those that are logged out go, the others stay', async () => {
    const all = await Promise.all(Array.from({ length: 50 }, async (_, i) => {
      const id = `many-${i}-${someone()}`;
      return { id, client: await connected(i % 2 ? world.door : world.desk, withCookie(await plant(world, id, session({ userId: someone('many') })))) };
    }));
    const [gone, stay] = [all.filter((_, i) => i % 3 === 0), all.filter((_, i) => i % 3 !== 0)];
    await world.store.command('DEL', ...gone.map((one) => `sess:${one.id}`));
    for (const { client } of gone) await client.kicked(4503);
    for (const { client } of stay) assert.equal(client.count('disconnect'), 0, client.history());
  });

  test('bans and disconnects reach those who came with a cookie', async ({ owned }) => {
    const app = await application(owned);
    const user = someone('cookie');
    const { cookie } = await app.browser().login({ userId: user });
    const client = await connected(world.door, withCookie(cookie));
    await world.api.ban(user);
    await client.kicked(4501);
    await connect(world.door, withCookie(cookie)).refused('User banned');
    await world.api.unban(user);
    await connected(world.door, withCookie(cookie));
  });

  // --- hostile cookies ------------------------------------------------------------------------------------------------

  const good = () => session({ userId: 'the-user-of-a-hostile-cookie' });
  const LIVE = 'the-session-of-a-hostile-cookie';
  const raw = (value) => `connect.sid=${value}`;
  const signed = (text) => raw(encodeURIComponent(`s:${text}`));
  /** An id whose signature has both characters in which the two alphabets of base64 differ. */
  const slashed = Array.from({ length: 1000 }, (_, i) => `slashed-${i}`).find((id) => /\+/.test(sign(id)) && /\//.test(sign(id)));
  const hostile = [
    ['no signature', () => raw(LIVE)],
    ['an id without its signature', () => signed(LIVE)],
    ['an unsigned cookie of the signed form', () => raw(`${LIVE}.${encodeURIComponent(sign(LIVE))}`)],
    ['j: in place of s:', () => raw(encodeURIComponent(`j:${LIVE}.${sign(LIVE)}`))],
    ['S: in place of s:', () => raw(encodeURIComponent(`S:${LIVE}.${sign(LIVE)}`))],
    ['an empty signature', () => signed(`${LIVE}.`)],
    ['an empty id', () => signed(`.${sign('')}`)],
    ['s: alone', () => signed('')],
    ['a dot alone', () => signed('.')],
    ['another secret', () => signed(`${LIVE}.${sign(LIVE, 'another-secret')}`)],
    ['an empty secret', () => signed(`${LIVE}.${sign(LIVE, '')}`)],
    ['the published vector\'s secret', () => signed('hello.DGDUkGlIkCzPz+C0B064FNgHdEjox7ch8tOBGslZ5QI')],
    ['the signature of another id', () => signed(`${LIVE}.${sign('another')}`)],
    ['a signature cut short', () => signed(`${LIVE}.${sign(LIVE).slice(0, -1)}`)],
    ['a signature with something behind it', () => signed(`${LIVE}.${sign(LIVE)}A`)],
    ['a padded signature', () => signed(`${LIVE}.${sign(LIVE)}=`)],
    ['a signature in the URL alphabet', () => signed(`${slashed}.${sign(slashed).replaceAll('+', '-').replaceAll('/', '_')}`)],
    ['a hexadecimal signature', () => signed(`${LIVE}.${Buffer.from(sign(LIVE), 'base64').toString('hex')}`)],
    ['a signature by SHA-512', () => signed(`${LIVE}.${createHmac('sha512', SESSION_SECRET).update(LIVE).digest('base64').replace(/=+$/, '')}`)],
    ['a plain hash', () => signed(`${LIVE}.${Buffer.from(LIVE).toString('base64').replace(/=+$/, '')}`)],
    ['two signatures', () => signed(`${LIVE}.${sign('x')}.${sign(LIVE)}`)],
    ['encoded twice', () => raw(encodeURIComponent(encodeURIComponent(`s:${LIVE}.${sign(LIVE)}`)))],
    ['a broken percent sign', () => raw(`s%3A${LIVE}.%zz${sign(LIVE)}`)],
    ['bytes that are no UTF-8', () => raw(`s%3A%ff%fe.${encodeURIComponent(sign('\xff\xfe'))}`)],
    ['white space in the signature', () => signed(`${LIVE}.${sign(LIVE)} `)],
    ['4 KB of id', () => signed(`${'x'.repeat(4000)}.${sign('x'.repeat(4000))}`)],
    ['a signed id of no session', () => raw(signedCookie('there-is-no-such-session'))],
    ['a signed id with a glob', () => raw(signedCookie('*'))],
    ['a signed id with line breaks', () => raw(signedCookie('x\r\nDEL y'))],
    ['a signed id with NUL', () => raw(signedCookie('x\0y'))],
    ['a signed id that steps out of the prefix', () => raw(signedCookie('../switchboard'))],
    ['the bad cookie first and the good one second', () => `${raw(LIVE)}; ${raw(signedCookie(LIVE))}`],
    ['a session that is no JSON', () => plant(world, 'hostile-1', 'userId=7')],
    ['a session that is half a JSON', () => plant(world, 'hostile-2', '{"userId":"7"')],
    ['a session that is a string', () => plant(world, 'hostile-3', '"7"')],
    ['a session that is null', () => plant(world, 'hostile-4', 'null')],
    ['a session that is a list', () => plant(world, 'hostile-5', '[{"userId":"7"}]')],
    ['an empty session', () => plant(world, 'hostile-6', '')],
    ['a session without a user', () => plant(world, 'hostile-7', session({ name: 'nobody' }))],
    ['a user that is null', () => plant(world, 'hostile-8', session({ userId: null }))],
    ['a user that is empty', () => plant(world, 'hostile-9', session({ userId: '' }))],
    ['a user that is true', () => plant(world, 'hostile-10', session({ userId: true }))],
    ['a user that is a list', () => plant(world, 'hostile-11', session({ userId: ['7'] }))],
    ['a user that is an object', () => plant(world, 'hostile-12', session({ userId: { $ne: null } }))],
    ['a user that is a fraction', () => plant(world, 'hostile-13', session({ userId: 1.5 }))],
    ['a user of 100 KB', () => plant(world, 'hostile-14', session({ userId: 'u'.repeat(100_000) }))],
    ['a user that no URL can name', () => plant(world, 'hostile-19', session({ userId: '..' }))],
    ['a user that is a dot', () => plant(world, 'hostile-20', session({ userId: '.' }))],
    ['a session that expired', () => plant(world, 'hostile-15', session({ userId: '7' }, { expires: '2020-01-01T00:00:00.000Z' }))],
    ['a session that is nested deeply', () => plant(world, 'hostile-16', `${'{"a":'.repeat(5000)}1${'}'.repeat(5000)}`)],
    ['a session that is a hash', () => plant(world, 'hostile-17', undefined, { command: (key) => ['HSET', key, 'userId', '7'] })],
    ['a session that is a list in Redis', () => plant(world, 'hostile-18', undefined, { command: (key) => ['RPUSH', key, '{"userId":"7"}'] })],
  ];

  test(`${hostile.length} hostile cookies are refused in the contract's words, over WebSocket and polling, and logged nowhere`, { ms: 120000 }, async () => {
    const sound = await plant(world, LIVE, good());
    await plant(world, slashed, good());
    const user = (await connect(world.door, withCookie(sound)).ready()).userId;
    assert.equal(user, 'the-user-of-a-hostile-cookie', 'expected the session that the hostile cookies are after to be a good one');
    for (const [what, make] of hostile) {
      const cookie = await make();
      for (const transport of ['websocket', 'polling']) {
        await connect(world.door, { ...withCookie(cookie), transports: [transport], label: `${what} (${transport})` }).refused('Not authenticated');
      }
      const guest = connect(world.door, { ...withCookie(cookie), namespace: '/public', label: `${what} in /public` });
      assert.equal((await guest.ready()).userId, null, `expected nobody to be known by ${what}`);
      guest.socket.disconnect();
      const value = /^connect\.sid=(.*)$/s.exec(cookie)[1];
      for (const node of new Set([world.door, world.desk])) {
        for (const text of [value, sign(LIVE), sign(LIVE).slice(0, 20)]) {
          if (text.length >= 12) assert.ok(!node.log.includes(text), `expected the cookie with ${what} not to be in the log of ${node.name}`);
        }
      }
    }
    await connected(world.door, withCookie(sound));
    assert.ok(!world.door.log.includes(LIVE), 'expected a session\'s id not to be logged');
  });

  for (const [what, cookie] of [['none', undefined], ['another cookie', 'theme=dark'], ['the name in another case', `Connect.Sid=${signedCookie(LIVE)}`], ['the name with something before it', `xconnect.sid=${signedCookie(LIVE)}`]]) {
    test(`no session cookie at all (${what}): "Authentication token required"`, async () => {
      await connect(world.door, cookie ? withCookie(cookie) : { auth: {} }).refused('Authentication token required');
    });
  }

  // --- origins --------------------------------------------------------------------------------------------------------

  /** The HTTP status of a WebSocket upgrade: 101, or what it was refused with. */
  const upgrade = (headers) => new Promise((resolve, reject) => {
    const ws = new WebSocket(`${world.door.url.replace(/^http/, 'ws')}/socket.io/?EIO=4&transport=websocket`, { headers, perMessageDeflate: false });
    ws.on('open', () => {
      ws.terminate();
      resolve(101);
    });
    ws.on('unexpected-response', (request, response) => {
      request.destroy();
      resolve(response.statusCode);
    });
    ws.on('error', reject);
  });
  const handshake = (headers) => exchange(world.door.url, 'GET', '/socket.io/?EIO=4&transport=polling', { headers });

  test('a cookie from a foreign origin: 403 before there is a session, for WebSocket and polling alike', async ({ owned }) => {
    const app = await application(owned);
    const user = someone('origin');
    const { cookie } = await app.browser().login({ userId: user });
    for (const origin of [EVIL, `${FRIEND}.evil.example`, 'https://app.example:8443', 'http://app.example', 'null', `https://evil.example/${FRIEND}`]) {
      assert.equal(await upgrade({ cookie, origin }), 403, `expected 403 to a WebSocket with a cookie from ${origin}`);
      const answer = await handshake({ cookie, origin });
      assert.equal(answer.status, 403, `expected 403 to a polling handshake with a cookie from ${origin}, got ${answer.status}: ${answer.text}`);
      assert.ok(!answer.text.includes('"sid"'), 'expected no session to be allocated');
      // A good token does not make up for it: whose page it is, is what is asked.
      assert.equal(await upgrade({ cookie, origin, authorization: `Bearer ${token(user)}` }), 403);
    }
    assert.equal((await world.api.user(user)).online, false);
    for (const origin of [FRIEND, world.door.url]) {
      for (const transport of ['websocket', 'polling']) {
        const client = await connected(world.door, { ...withCookie(cookie, { origin }), transports: [transport] });
        assert.equal((await world.api.connection(client.id)).userId, user);
      }
    }
    for (const transport of ['websocket', 'polling']) await connected(world.door, { ...withCookie(cookie), transports: [transport] });
  });

  test('a polling session that began without a cookie does not become anybody\'s by one that comes later', async ({ owned }) => {
    const app = await application(owned);
    const { cookie } = await app.browser().login({ userId: someone('late') });
    const session = await Polling.open(world.door.url, { headers: { origin: EVIL } });
    session.headers = { origin: EVIL, cookie };
    const { status } = await session.post('40');
    if (status === 200) await session.until(/^44\{"message":"Authentication token required","data":\{"code":"authentication_token_required"\}\}$/);
    else assert.equal(status, 403);
  });

  test('a foreign page without a cookie, and with a token, is served as before', async () => {
    const user = someone('origin');
    const client = await connected(world.door, { user, extraHeaders: { origin: EVIL } });
    assert.equal((await world.api.connection(client.id)).userId, user);
  });

  test('a client that reads nothing is ended with its session', async ({ owned }) => {
    const app = await application(owned);
    const user = someone('lame');
    const browser = await app.browser().login({ userId: user });
    const lame = new RawSocket(world.door.url, { headers: { cookie: browser.cookie } });
    await lame.connect();
    lame.stall();
    await browser.logout();
    await eventually('it is out of the registry', async () => (await world.api.user(user)).online === false);
    await lame.seesClose();
  });
}, { env: settings() });

test('names and places can be set: cookie, prefix, pointers', async ({ node, redis, owned }) => {
  const store = await redis();
  const door = await node({
    redis: store,
    env: {
      SWITCHBOARD_AUTH__SESSION__SECRETS: SESSION_SECRET,
      SWITCHBOARD_AUTH__SESSION__COOKIE_NAME: 'shop.sid',
      SWITCHBOARD_AUTH__SESSION__KEY_PREFIX: 'shop:',
      SWITCHBOARD_AUTH__SESSION__USER_ID_POINTER: '/account/number',
      SWITCHBOARD_AUTH__SESSION__USERNAME_POINTER: '/account/name',
      SWITCHBOARD_AUTH__SESSION__ROLE_POINTER: '/account/a~1b',
    },
  });
  const app = await startExpress({ redis: store, name: 'shop.sid', prefix: 'shop:' });
  owned(app.stop);
  const { cookie } = await app.browser().login({ userId: 'not-this-one', account: { number: 42, name: 'Ada', 'a/b': 'chief' } });
  const ready = await connect(door, withCookie(cookie)).ready();
  assert.deepEqual([ready.userId, ready.username, ready.role], ['42', 'Ada', 'chief']);
  await connect(door, withCookie(cookie.replace('shop.sid', 'connect.sid'))).refused('Authentication token required');
});

test('without auth.session.secrets no cookie is looked at', async ({ node }) => {
  const door = await node();
  await connect(door, withCookie(`connect.sid=${signedCookie('x', '')}`)).refused('Authentication token required');
});

test('a store that is away for a while ends nobody, and lets nobody in by a connect error', { ms: 90000 }, async ({ node, redis }) => {
  const [cluster, store] = [await redis(), await redis()];
  const door = await node({ redis: cluster, env: { SWITCHBOARD_AUTH__SESSION__SECRETS: SESSION_SECRET, SWITCHBOARD_AUTH__SESSION__RECHECK: `${RECHECK}ms`, SWITCHBOARD_AUTH__SESSION__REDIS_URL: store.url } });
  const world = { store };
  const cookie = await plant(world, 'outage', session({ userId: 'outage' }));
  const client = await connected(door, withCookie(cookie));
  await store.stop();
  const waiting = connect(door, { ...withCookie(cookie), reconnectionDelay: 200, reconnectionDelayMax: 500, timeout: 2000 });
  const first = await Promise.race([waiting.wait('connect_error', { ms: 20000 }), waiting.wait('disconnect', { ms: 20000 }), waiting.wait('connect', { ms: 20000 })]);
  assert.ok(waiting.socket.active, `expected the stock client to go on trying while the sessions can't be read; it got: ${waiting.history()}, ${first}`);
  assert.equal(waiting.count('ready'), 0);
  // Who comes by a token needs no session: the node stays in the balancer, and says what it lacks.
  const readyz = () => door.api.request('GET', '/readyz');
  const { status, json } = await readyz();
  assert.deepEqual([status, json], [200, { ready: true, degraded: true, sessionStoreAway: true }]);
  await connected(door, { user: someone('token') });
  await clockPasses(Date.now() + 3 * RECHECK);
  assert.equal(client.count('disconnect'), 0, `expected nobody to be ended because the store is away; history: ${client.history()}`);
  await store.start();
  // It came back empty: now the session is gone indeed.
  await client.kicked(4503);
  await eventually('the node has its store again', async () => (await readyz()).text === 'ready');
});
