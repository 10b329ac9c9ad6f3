// Clients that misbehave, or look at the bytes: Engine.IO 4 by hand, over HTTP polling and over WebSocket.

import assert from 'node:assert/strict';
import WebSocket from 'ws';
import { exchange } from './api.mjs';
import { eventually, within } from './wait.mjs';

const SEPARATOR = '\x1e';
const ENGINE = '/socket.io/?EIO=4';
const sockets = new Set();

/** Drops every raw WebSocket that is still there; the wrapper around each test calls it. */
export function dropRaw() {
  for (const socket of sockets) socket.terminate();
  sockets.clear();
}

/** The CONNECT packet of a namespace. */
export function connectPacket(auth, namespace = '/') {
  return `40${namespace === '/' ? '' : `${namespace},`}${auth === undefined ? '' : JSON.stringify(auth)}`;
}

/** An HTTP long-polling session. */
export class Polling {
  /** The Engine.IO handshake. */
  static async open(url, { headers = {} } = {}) {
    const answer = await exchange(url, 'GET', `${ENGINE}&transport=polling`, { headers });
    assert.equal(answer.status, 200, `expected 200 to a polling handshake, got ${answer.status}: ${answer.text}`);
    assert.equal(answer.text[0], '0', `expected an open packet, got ${answer.text}`);
    const session = new Polling();
    session.url = url;
    session.headers = headers;
    session.handshake = JSON.parse(answer.text.slice(1));
    session.sid = session.handshake.sid;
    session.packets = [];
    return session;
  }

  get path() {
    return `${ENGINE}&transport=polling&sid=${encodeURIComponent(this.sid)}`;
  }

  post(...packets) {
    const headers = { ...this.headers, 'content-type': 'text/plain;charset=UTF-8' };
    return exchange(this.url, 'POST', this.path, { headers, body: packets.join(SEPARATOR) });
  }

  /** One poll; its packets are kept, pings answered. */
  async poll({ ms = 30000 } = {}) {
    const answer = await exchange(this.url, 'GET', this.path, { headers: this.headers, ms });
    if (answer.status === 200) {
      const packets = answer.text.split(SEPARATOR);
      this.packets.push(...packets);
      if (packets.includes('2')) await this.post('3');
    }
    return answer;
  }

  /** Polls until a packet matches, and resolves to the match. */
  until(pattern, { ms = 10000 } = {}) {
    const look = async () => {
      for (;;) {
        const hit = this.packets.map((packet) => pattern.exec(packet)).find(Boolean);
        if (hit) return hit;
        const { status, text } = await this.poll();
        assert.equal(status, 200, `expected a packet like ${pattern} from a poll, got ${status}: ${text}`);
      }
    };
    return within(ms, `a polled packet like ${pattern}`, look());
  }

  /** Joins a namespace and resolves to the payload of `ready`. */
  async connect(auth) {
    const { status, text } = await this.post(connectPacket(auth));
    assert.equal(status, 200, `expected the CONNECT packet to be taken, got ${status}: ${text}`);
    const [, payload] = await this.until(/^42\["ready",(.*)\]$/s);
    return JSON.parse(payload);
  }

  /** Holds the session to be unknown: Engine.IO's error 1, with 400. */
  refused({ ms = 5000 } = {}) {
    return eventually('the killed session\'s id is refused with 400 and Engine.IO code 1 ("Session ID unknown")', async () => {
      const answer = await exchange(this.url, 'GET', this.path, { headers: this.headers, ms });
      assert.equal(answer.status, 400, `GET got ${answer.status}: ${answer.text.slice(0, 200)}`);
      assert.equal(Number(answer.json?.code), 1, `GET got ${answer.status}: ${answer.text.slice(0, 200)}`);
      const posted = await this.post('42["x"]');
      assert.equal(posted.status, 400, `POST got ${posted.status}: ${posted.text.slice(0, 200)}`);
    }, { ms });
  }
}

/** A WebSocket with Engine.IO packets. */
export class RawSocket {
  constructor(url, { headers = {}, query = '', sid } = {}) {
    const upgrade = sid ? `&sid=${encodeURIComponent(sid)}` : '';
    this.ws = new WebSocket(`${url.replace(/^http/, 'ws')}${ENGINE}&transport=websocket${upgrade}${query}`, { headers, perMessageDeflate: false });
    this.packets = [];
    this.watchers = new Set();
    this.paused = false;
    sockets.add(this.ws);
    const poke = () => {
      for (const look of [...this.watchers]) look();
    };
    this.ws.on('message', (data, binary) => {
      const packet = binary ? data : data.toString('utf8');
      this.packets.push(packet);
      if (packet === '2' && this.ws.readyState === WebSocket.OPEN) this.ws.send('3');
      poke();
    });
    this.closed = new Promise((resolve) => {
      this.ws.on('error', (error) => {
        this.error = error;
        poke();
      });
      this.ws.on('close', (code) => {
        this.code = code;
        sockets.delete(this.ws);
        poke();
        resolve(code);
      });
    });
  }

  /** Resolves to the match of the first packet that matches; fails at once if the socket closes before. */
  until(pattern, { ms = 10000 } = {}) {
    const found = new Promise((resolve, reject) => {
      const look = () => {
        const hit = this.packets.map((packet) => pattern.exec(packet)).find(Boolean);
        if (!hit && this.code === undefined) return;
        this.watchers.delete(look);
        if (hit) resolve(hit);
        else reject(new Error(`expected a packet like ${pattern}, but the WebSocket closed (${this.code}${this.error ? `, ${this.error.message}` : ''})`));
      };
      this.watchers.add(look);
      look();
    });
    return within(ms, `a packet like ${pattern} on a raw WebSocket`, found);
  }

  async open() {
    this.handshake = JSON.parse((await this.until(/^0(\{.*\})$/s))[1]);
    return this;
  }

  /** Joins the root namespace and resolves to the payload of `ready`. */
  async connect(auth) {
    await this.open();
    this.ws.send(connectPacket(auth));
    return JSON.parse((await this.until(/^42\["ready",(.*)\]$/s))[1]);
  }

  /** Stops reading: from here on the kernel's buffers fill, then the server's. */
  stall() {
    this.ws.pause();
    return this;
  }

  /** Reads again, and holds the server to having closed the connection. */
  async seesClose({ ms = 10000 } = {}) {
    this.ws.resume();
    return within(ms, 'the server has closed the TCP connection of a client that reads nothing', this.closed);
  }
}
