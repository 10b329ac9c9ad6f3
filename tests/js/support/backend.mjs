// A backend that nodes call, as an application would write one. It holds every call to its signature.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';

export const WEBHOOK_SECRETS = ['whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'];

/** The types of notifications, which may come again, later, with the same id. */
const NOTIFIED = ['connection.opened', 'connection.closed', 'user.online', 'user.offline', 'room.occupied', 'room.vacated'];

/** The settings of a node that calls `backends`, each a backend's own. */
export const calling = (...backends) => ({
  SWITCHBOARD_BACKENDS: JSON.stringify(backends.map((one, index) => ({ name: `app${index || ''}`, secret: WEBHOOK_SECRETS[0], secrets: WEBHOOK_SECRETS.slice(1), ...one }))),
});

/** The signatures of a call, as the specification of Standard Webhooks has them. */
function signatures(secrets, headers, body) {
  const signed = `${headers['webhook-id']}.${headers['webhook-timestamp']}.${body}`;
  const one = (secret) => createHmac('sha256', Buffer.from(secret.slice('whsec_'.length), 'base64')).update(signed).digest('base64');
  return secrets.map((secret) => `v1,${one(secret)}`).join(' ');
}

export class Backend {
  constructor(secrets, tls) {
    this.secrets = secrets;
    /** Every call, as it came: `{type, timestamp, data}`, and its `headers` and `httpVersion`. */
    this.calls = [];
    /** What was wrong with a call. */
    this.wrong = [];
    this.connections = 0;
    /** Events that are notifications. */
    this.queued = [];
    this.answers = {};
    this.sockets = new Set();
    const [create, options] = tls?.http2 ? [http2.createSecureServer, tls] : tls ? [https.createServer, tls] : [http.createServer, {}];
    this.server = create(options, (request, response) => this.take(request, response));
    this.server.on('connection', (socket) => {
      this.connections += 1;
      this.sockets.add(socket);
      socket.on('close', () => this.sockets.delete(socket));
    });
  }

  /** `tls`: the `key` and `cert` with which it speaks TLS, and if `http2`, HTTP/2 and nothing else. */
  static async start({ secrets = WEBHOOK_SECRETS, port = 0, tls } = {}) {
    const backend = new Backend(secrets, tls);
    await new Promise((resolve, reject) => backend.server.on('error', reject).listen(port, '127.0.0.1', resolve));
    backend.port = backend.server.address().port;
    backend.url = `${tls ? 'https' : 'http'}://127.0.0.1:${backend.port}/switchboard`;
    return backend;
  }

  /**
   * Answers calls about an event, or those of a type, with what `answer(data, call)` resolves to: an object is JSON, `undefined` is 204,
   * a function gets the response and does as it likes.
   */
  on(name, answer) {
    this.answers[name] = answer;
    return this;
  }

  async take(request, response) {
    const parts = [];
    for await (const part of request) parts.push(part);
    const body = Buffer.concat(parts).toString('utf8');
    const call = { ...JSON.parse(body), headers: request.headers, httpVersion: request.httpVersion };
    try {
      assert.deepEqual([request.method, request.headers['content-type']], ['POST', 'application/json']);
      assert.deepEqual(Object.keys(JSON.parse(body)), ['type', 'timestamp', 'data']);
      assert.match(call.timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/);
      const isNotification = NOTIFIED.includes(call.type) || this.queued.includes(call.data.event);
      const time = isNotification ? Date.now() : Date.parse(call.timestamp);
      assert.ok(Math.abs(time / 1000 - request.headers['webhook-timestamp']) < 2, 'expected the time of the request in the headers, and of a call in the body');
      assert.equal(request.headers['webhook-signature'], signatures(this.secrets, request.headers, body));
      assert.ok(isNotification || !this.calls.some(({ headers }) => headers['webhook-id'] === request.headers['webhook-id']), 'expected an id of its own');
    } catch (error) {
      this.wrong.push(error.message);
    }
    this.calls.push(call);
    const answer = this.answers[call.data.event ?? call.type] ?? (() => undefined);
    const said = await answer(call.data, call);
    if (typeof said === 'function') return said(response);
    if (said === undefined) return response.writeHead(204).end();
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(said));
  }

  /** The data of the calls about an event. */
  of = (event) => this.calls.filter(({ data }) => data.event === event).map(({ data }) => data);

  async stop() {
    const closed = new Promise((resolve) => this.server.close(resolve));
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }
}

export const startBackend = (options) => Backend.start(options);
