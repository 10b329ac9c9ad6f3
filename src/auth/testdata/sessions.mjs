// Makes sessions.json: cookies and sessions by the packages that applications use. Run by hand, beside an installation of
//   express@5 express-session@1.19 connect-redis@9 redis@5 cookie-signature@1.2
// and with the URL of an empty Redis as its argument:
//   node sessions.mjs redis://127.0.0.1:6379 > sessions.json

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';

const require = createRequire(`${process.cwd()}/`);
const express = require('express');
const session = require('express-session');
const { RedisStore } = require('connect-redis');
const { createClient } = require('redis');
const { sign } = require('cookie-signature');

const redis = await createClient({ url: process.argv[2] }).connect();
const FOREVER = 50 * 365 * 24 * 3600 * 1000;

/** What a browser holds, and Redis, after `login` has filled the session and some more requests were made. */
async function visit(what, login, { options = {}, store = {}, requests = 0 } = {}) {
  await redis.flushAll();
  const app = express();
  app.use(
    session({
      store: new RedisStore({ client: redis, ...store }),
      secret: 'test-only secret',
      resave: false,
      saveUninitialized: true,
      cookie: { maxAge: FOREVER },
      ...options,
    }),
  );
  app.get('/login', (request, response) => {
    login(request.session);
    response.end();
  });
  app.get('/', (request, response) => response.end());
  const server = app.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  const [setCookie] = (await fetch(`${url}/login`)).headers.getSetCookie();
  const cookie = setCookie.split(';')[0];
  for (let request = 0; request < requests; request += 1) {
    await sleep(800);
    await fetch(url, { headers: { cookie } });
  }
  const [key] = await redis.keys('*');
  const made = { what, cookie, key, json: await redis.get(key), pttl: await redis.pTTL(key) };
  server.close();
  return made;
}

const touched = { requests: 3, options: { cookie: { maxAge: 1500 } } };
const made = {
  versions: Object.fromEntries(
    ['express', 'express-session', 'connect-redis', 'cookie-signature'].map((name) => [
      name,
      JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version,
    ]),
  ),
  signed: [
    ['hello', 'tobiiscool'],
    ['hello', 'luna'],
    ['with.some.dots.', 's'],
    ['{"a":1}/+=~', 'test-only secret'],
    ['x'.repeat(256), 'schlüssel 🔑'],
  ].map(([id, secret]) => ({ id, secret, value: `s:${sign(id, secret)}` })),
  sessions: [
    await visit('a number', (it) => {
      it.userId = 42;
    }),
    await visit('a name and a role', (it) => {
      Object.assign(it, { userId: 'u-42', username: 'Zoë', role: 'admin' });
    }),
    await visit('several roles', (it) => {
      Object.assign(it, { user: { id: 42, role: 'no' }, role: ['user', 'admin'] });
    }),
    await visit('passport', (it) => {
      Object.assign(it, { passport: { user: '42' }, flash: {} });
    }),
    await visit('nobody', () => {}),
    await visit('an older secret', (it) => {
      it.userId = 42;
    }, { options: { secret: ['older secret'] } }),
    await visit('a foreign secret', (it) => {
      it.userId = 42;
    }, { options: { secret: 'foreign secret' } }),
    await visit('ids of its own', (it) => {
      it.userId = 42;
    }, { options: { genid: () => 'eu-1:a.b/c+d=;"%41, e'.replaceAll(' ', '_') } }),
    await visit('no end', (it) => {
      it.userId = 42;
    }, { options: { cookie: { maxAge: null } } }),
    await visit('no end in Redis either', (it) => {
      it.userId = 42;
    }, { options: { cookie: { maxAge: null } }, store: { disableTTL: true } }),
    await visit('in use beyond its expires', (it) => {
      it.userId = 42;
    }, touched),
    await visit('past its expires, and kept', (it) => {
      it.userId = 42;
    }, { ...touched, store: { disableTTL: true } }),
  ],
};
console.log(JSON.stringify(made, null, 2));
redis.destroy();
