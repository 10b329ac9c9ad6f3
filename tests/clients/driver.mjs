// A client library under test: a program of its own, which holds all of the library's connections.
//
// It reads commands, one JSON object a line, until stdin ends; `client` names the connection that each is about:
//   {do: "open", client, url, transports, auth}   connects. Comes back by itself, first after some 200 ms, which is below the defaults
//   {do: "ask", client, event, args}              emits with an acknowledgement
//   {do: "close", client}
// It prints {client, name, args} for what happens: `connect`; `connect_error` with {message, data}; `disconnect` with the library's
// word for the reason; `ack` with the arguments of the acknowledgement; any other event with its arguments. It acknowledges an event
// with the event's own arguments. An argument {"$base64": "…"} stands for binary, both ways.

import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { Client, Running } from '../js/harness.mjs';

export class Driver extends Running {
  constructor([command, ...args], name) {
    super(command, args, { name, stdin: 'pipe' });
    this.sockets = new Map();
    this.opened = 0;
    // A driver that has ended is seen by what does not come.
    this.child.stdin.on('error', () => {});
  }

  take(lines) {
    super.take(lines);
    for (const line of lines.filter((line) => line.startsWith('{"'))) {
      const { client, name, args } = JSON.parse(line);
      this.sockets.get(client).happened(name, args);
    }
  }

  tell(command) {
    this.child.stdin.write(`${JSON.stringify(command)}\n`);
  }

  /** Connects; resolves at once. */
  open(url, { transports, token, label }) {
    const socket = new DrivenSocket(this, `${(this.opened += 1)}`);
    const client = new DrivenClient(socket, label);
    this.sockets.set(socket.client, socket);
    this.tell({ do: 'open', client: socket.client, url, transports, auth: { token } });
    return client;
  }
}

/** What the harness's Client needs of a stock socket. */
class DrivenSocket extends EventEmitter {
  constructor(driver, client) {
    super();
    Object.assign(this, { driver, client, watchers: [], active: true });
  }

  onAny(watcher) {
    this.watchers.push(watcher);
  }

  happened(name, args) {
    this.emit(name, ...args);
    if (!['connect', 'connect_error', 'disconnect', 'ack'].includes(name)) for (const watcher of this.watchers) watcher(name, ...args);
  }

  emitWithAck(event, ...args) {
    const answer = new Promise((resolve) => this.once('ack', resolve));
    this.driver.tell({ do: 'ask', client: this.client, event, args });
    return answer;
  }

  close() {
    this.driver.tell({ do: 'close', client: this.client });
  }
}

export class DrivenClient extends Client {
  /** Holds it to being refused with this message and code. */
  async refusedWith(message, code) {
    const [error] = await this.wait('connect_error');
    assert.deepEqual(error, { message, data: { code } }, `expected another refusal of ${this.label}`);
  }

  /** Holds its `nth` end to a forceDisconnect with this code before it. */
  async ended(code, reconnect, nth = 1) {
    await this.wait('disconnect', { nth });
    assert.equal(this.count('forceDisconnect'), nth, `expected one forceDisconnect before each disconnect of ${this.label}: ${this.history()}`);
    const [told] = await this.wait('forceDisconnect', { nth });
    assert.deepEqual([told.code, told.reconnect], [code, reconnect], this.history());
  }
}
