// A web application with sessions, of the packages that real ones are made of: express, express-session, connect-redis.

import { createHmac } from 'node:crypto';
import { RedisStore } from 'connect-redis';
import express from 'express';
import session from 'express-session';
import { createClient } from 'redis';
import { exchange } from './api.mjs';
import { Jar } from './jar.mjs';

export const SESSION_SECRET = 'the-session-secret-of-the-tests-0123456789';

/** The value of a `connect.sid` cookie, as express-session writes it into the header. */
export function signedCookie(id, secret = SESSION_SECRET) {
  const signature = createHmac('sha256', secret).update(id).digest('base64').replace(/=+$/, '');
  return encodeURIComponent(`s:${id}.${signature}`);
}

/** One person's browser at the application. */
export class Browser {
  constructor(app) {
    this.app = app;
    this.jar = new Jar();
  }

  get cookie() {
    return this.jar.header;
  }

  /** The id of the session that the cookie names. */
  get id() {
    return /^s:(.*)\.[^.]*$/.exec(decodeURIComponent(this.jar.cookies.get(this.app.cookieName)))[1];
  }

  async post(path, json = {}) {
    const body = JSON.stringify(json);
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    if (this.cookie) headers.cookie = this.cookie;
    const answer = this.jar.take(await exchange(this.app.url, 'POST', path, { headers, body }));
    if (answer.status !== 204) throw new Error(`expected 204 from the web application's ${path}, got ${answer.status}: ${answer.text}`);
    return this;
  }

  /** Logs in: whatever is given is put into the session. */
  login = (fields) => this.post('/login', fields);
  /** Changes what is in the session; `null` removes a field. */
  change = (fields) => this.post('/change', fields);
  visit = () => this.post('/visit');
  logout = () => this.post('/logout');
}

/** Starts the application on a port of its own, with its sessions in `redis`. */
export async function startExpress({ redis, secrets = [SESSION_SECRET], name, prefix, cookie = {}, ...options }) {
  const store = createClient({ url: redis.url, socket: { reconnectStrategy: false } });
  // Without a listener the end of Redis at the end of a test would end this process.
  store.on('error', () => {});
  await store.connect();
  const app = express();
  app.use(express.json());
  app.use(session({ store: new RedisStore({ client: store, ...(prefix && { prefix }) }), secret: secrets, name, resave: false, saveUninitialized: false, cookie, ...options }));
  app.post('/login', (request, response, next) => {
    // As express-session's own example has it: a new session at login, against fixation.
    request.session.regenerate((error) => {
      if (error) return next(error);
      Object.assign(request.session, request.body);
      response.sendStatus(204);
    });
  });
  app.post('/change', (request, response) => {
    for (const [field, value] of Object.entries(request.body)) {
      if (value === null) delete request.session[field];
      else request.session[field] = value;
    }
    response.sendStatus(204);
  });
  app.post('/visit', (request, response) => response.sendStatus(204));
  app.post('/logout', (request, response, next) => {
    request.session.destroy((error) => (error ? next(error) : response.sendStatus(204)));
  });
  const server = await new Promise((resolve, reject) => {
    const listening = app.listen(0, '127.0.0.1', (error) => (error ? reject(error) : resolve(listening)));
  });
  const stop = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    store.destroy();
  };
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cookieName: name ?? 'connect.sid',
    store,
    stop,
    browser() {
      return new Browser(this);
    },
  };
}
