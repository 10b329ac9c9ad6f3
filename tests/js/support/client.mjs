// The stock socket.io-client, with everything that happens to it written down, so that nothing is missed by waiting late.

import assert from 'node:assert/strict';
import { io } from 'socket.io-client';
import { token } from './process.mjs';
import { within } from './wait.mjs';

/** Every `connect_error` message that the contract has for who is refused. */
export const CONNECT_ERRORS = ['Authentication token required', 'Invalid token', 'Invalid or expired token', 'Token revoked', 'User banned', 'Admin access required',
  'Access denied', 'Not authenticated', 'Too many connections', 'Invalid namespace'];

const clients = new Set();

/** Closes every client that is still there; the wrapper around each test calls it. */
export function closeClients() {
  for (const client of clients) {
    client.socket.close();
    // With its other namespaces, which a test may have joined by itself: one that is left comes back for ever.
    client.socket.io.disconnect();
  }
  clients.clear();
}

const show = (value) => {
  if (value instanceof Error) return JSON.stringify(value.message);
  if (typeof value === 'function') return '(ack)';
  const text = JSON.stringify(value) ?? 'undefined';
  return text.length > 120 ? `${text.slice(0, 120)}…` : text;
};

export class Client {
  constructor(socket, label) {
    this.socket = socket;
    this.label = label;
    this.seen = [];
    this.watchers = new Set();
    const note = (name) => (...args) => {
      this.seen.push({ name, args });
      for (const look of [...this.watchers]) look();
    };
    for (const name of ['connect', 'connect_error', 'disconnect']) socket.on(name, note(name));
    socket.onAny((name, ...args) => note(name)(...args));
    clients.add(this);
  }

  history() {
    return this.seen.map(({ name, args }) => `${name}(${args.map(show).join(', ')})`).join(' ') || 'nothing';
  }

  count(name) {
    return this.seen.filter((entry) => entry.name === name).length;
  }

  /**
   * Resolves to the arguments of the `nth` occurrence of `name`, also when it was there before. A `ready` that is waited
   * for fails at once when the client is refused for good, unless `retried` says that somebody calls connect() again.
   */
  async wait(name, { nth = 1, ms = 10000, retried = false } = {}) {
    const happened = new Promise((resolve, reject) => {
      const look = () => {
        const hits = this.seen.filter((entry) => entry.name === name);
        if (hits.length >= nth) {
          this.watchers.delete(look);
          return resolve(hits[nth - 1].args);
        }
        const refusals = this.seen.filter((entry) => entry.name === 'connect_error');
        if (name === 'ready' && !retried && refusals.length && !this.socket.active) {
          this.watchers.delete(look);
          reject(new Error(`expected ${this.label} to get "ready", but it was refused: ${show(refusals.at(-1).args[0])}`));
        }
      };
      this.watchers.add(look);
      look();
    });
    try {
      return await within(ms, `${this.label} gets "${name}"${nth > 1 ? ` for the ${nth}. time` : ''}`, happened);
    } catch (error) {
      throw new Error(`${error.message}\n  what it got: ${this.history()}`);
    }
  }

  /** Resolves to `ready`, or to the message that it was refused with, or to `disconnect`: whichever came first. */
  async outcome({ ms = 15000 } = {}) {
    const first = () => this.seen.find(({ name }) => ['ready', 'connect_error', 'disconnect'].includes(name));
    const happened = new Promise((resolve) => {
      const look = () => {
        if (!first()) return;
        this.watchers.delete(look);
        resolve(first());
      };
      this.watchers.add(look);
      look();
    });
    const { name, args } = await within(ms, `${this.label} is let in or refused`, happened);
    if (name === 'ready') this.id = args[0]?.connectionId;
    return name === 'connect_error' ? args[0].message : name;
  }

  /** Resolves to the payload of the `nth` ready. */
  async ready(options) {
    const [payload] = await this.wait('ready', options);
    this.id = payload?.connectionId;
    assert.ok(this.id, `expected "ready" to carry a connectionId, got ${show(payload)}`);
    return payload;
  }

  /** Holds it to being refused for good with this very message, and its code. */
  async refused(message) {
    const [error] = await this.wait('connect_error');
    const code = message === 'Invalid or expired token' ? 'token_expired' : message.toLowerCase().replaceAll(' ', '_');
    assert.deepEqual(error.data, { code }, `expected data: {code} of the connect_error of ${this.label}`);
    assert.equal(error.message, message, `expected ${this.label} to be refused with the connect_error message ${show(message)}, got ${show(error)}`);
    assert.equal(this.socket.active, false, `expected the refusal of ${this.label} to be final (socket.active false): the stock client would retry`);
    assert.equal(this.count('ready'), 0, `expected no "ready" for ${this.label}, which was refused; it got: ${this.history()}`);
  }

  /** The payload of the forceDisconnect that came before the first disconnect; fails if there was none. */
  told() {
    const end = this.seen.findIndex((entry) => entry.name === 'disconnect');
    const why = this.seen.slice(0, end).find((entry) => entry.name === 'forceDisconnect');
    assert.ok(why, `expected ${this.label} to get "forceDisconnect" before it was disconnected; what it got: ${this.history()}`);
    return why.args[0];
  }

  /** Holds it to a final end: forceDisconnect with `code`, then a DISCONNECT packet, and no way back. */
  async kicked(code, reason) {
    const [how] = await this.wait('disconnect');
    const why = this.told();
    assert.equal(why.code, code, `expected forceDisconnect of ${this.label} with code ${code}, got ${show(why)}`);
    assert.equal(why.reconnect, false, `expected forceDisconnect of ${this.label} to say reconnect:false, got ${show(why)}`);
    if (reason !== undefined) assert.equal(why.reason, reason, `expected the reason ${show(reason)}, got ${show(why)}`);
    assert.equal(how, 'io server disconnect', `expected ${this.label} to see the reason "io server disconnect", got "${how}"; history: ${this.history()}`);
    assert.equal(this.socket.active, false, `expected ${this.label} to stay away after a DISCONNECT packet, but it is reconnecting`);
  }

  /** Emits with an acknowledgement, and resolves to that. */
  async ask(event, ...args) {
    try {
      return await within(10000, `${this.label} gets an acknowledgement of "${event}"`, this.socket.emitWithAck(event, ...args));
    } catch (error) {
      throw new Error(`${error.message} (asked: "${event}")\n  what ${this.label} got: ${this.history()}`);
    }
  }

  /** Holds an acknowledgement to `{ok: true, …}`, and resolves to the rest of it. */
  async granted(event, ...args) {
    const answer = await this.ask(event, ...args);
    assert.equal(answer?.ok, true, `expected "${event}" of ${this.label} to be granted, got ${show(answer)}`);
    const { ok, ...rest } = answer;
    return rest;
  }

  /** Holds an acknowledgement to `{ok: false, error}`, with one of `messages` if there are any; resolves to the error. */
  async denied(messages, event, ...args) {
    const answer = await this.ask(event, ...args);
    assert.equal(answer?.ok, false, `expected "${event}" of ${this.label} to be denied, got ${show(answer)}`);
    assert.deepEqual(Object.keys(answer).sort(), ['error', 'ok'], `expected {ok: false, error}, got ${show(answer)}`);
    assert.ok(typeof answer.error === 'string' && answer.error, `expected a text in error, got ${show(answer)}`);
    const wanted = [messages ?? []].flat();
    if (wanted.length) assert.ok(wanted.includes(answer.error), `expected the error ${wanted.map(show).join(' or ')}, got ${show(answer)}`);
    return answer.error;
  }

  /** Holds it to an end after which the stock client comes back: forceDisconnect with `code`, then a closed transport. */
  async sentAway(code, reason) {
    const [how] = await this.wait('disconnect');
    assert.deepEqual(this.told(), { code, reason, reconnect: true });
    assert.ok(['transport close', 'transport error'].includes(how), `expected ${this.label} to see a closed transport, got "${how}"; history: ${this.history()}`);
  }

  /** Makes its handler for `event` answer acknowledgements with `reply`. */
  answer(event, reply) {
    this.socket.on(event, (...args) => {
      const ack = args.at(-1);
      if (typeof ack === 'function') ack(reply);
    });
    return this;
  }

  /** Another namespace on the same transport. */
  join(namespace, { auth = this.socket.auth, label = `${this.label} in ${namespace}` } = {}) {
    return new Client(this.socket.io.socket(namespace, { auth }), label);
  }
}

/**
 * Connects the stock client. `target` is a node or a URL; `user` makes a token for it; whatever is not named here goes to
 * io() as it is. WebSocket only, unless `transports` says otherwise.
 */
export function connect(target, { user, token: given, claims, namespace = '', auth, deviceId, label, ...options } = {}) {
  const credentials = given ?? (user === undefined ? undefined : token(user, claims));
  const own = {};
  if (credentials !== undefined) own.token = credentials;
  if (deviceId !== undefined) own.deviceId = deviceId;
  const socket = io((target.url ?? target) + namespace, {
    forceNew: true,
    transports: ['websocket'],
    auth: auth ?? own,
    ...options,
  });
  return new Client(socket, label ?? `the client of ${user === undefined ? 'a guest' : show(user)}${namespace && ` in ${namespace}`}`);
}

/** Connects and waits for `ready`. */
export async function connected(target, options) {
  const client = connect(target, options);
  await client.ready();
  return client;
}
