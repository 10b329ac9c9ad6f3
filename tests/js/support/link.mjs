// A way between a node and its Redis that can break, as networks do: a TCP proxy.

import net from 'node:net';

/** RESP: a command that subscribes, so that what follows is pushed. */
const SUBSCRIBES = /\r\n[PS]?SUBSCRIBE\r\n/i;

export class Link {
  /** A link to a running Redis. `url` is what a node takes for it. */
  static async open(redis) {
    const link = new Link();
    link.pairs = new Set();
    link.server = net.createServer((near) => link.pass(near, redis.port));
    await new Promise((resolve, reject) => link.server.on('error', reject).listen(0, '127.0.0.1', resolve));
    const { port } = link.server.address();
    link.url = `redis://127.0.0.1:${port}/0`;
    return link;
  }

  pass(near, port) {
    if (this.isCut) return near.destroy();
    const far = net.connect(port, '127.0.0.1');
    const pair = { near, far, pushed: false, isDeaf: false };
    this.pairs.add(pair);
    const drop = () => {
      this.pairs.delete(pair);
      near.destroy();
      far.destroy();
    };
    near.on('data', (data) => {
      if (this.holding?.command.test(data.toString('latin1'))) {
        near.pause();
        this.holding.later = () => near.resume() && far.write(data);
        return this.holding.begun();
      }
      pair.isDeaf ||= this.isDeafAfter?.test(data.toString('latin1')) ?? false;
      if (!pair.pushed && SUBSCRIBES.test(data.toString('latin1'))) {
        pair.pushed = true;
        if (this.isMute) far.pause();
      }
      far.write(data);
    });
    far.on('data', (data) => pair.isDeaf || near.write(data));
    for (const socket of [near, far]) socket.on('error', drop).on('close', drop).setNoDelay(true);
  }

  /** Breaks every connection, and lets none through. */
  cut() {
    this.isCut = true;
    for (const { near, far } of this.pairs) {
      near.destroy();
      far.destroy();
    }
  }

  /** Holds back what is pushed: a node hears nothing of the others, while its own commands go through. */
  mute() {
    this.isMute = true;
    for (const pair of this.pairs) if (pair.pushed) pair.far.pause();
  }

  /** From the first command on that matches, swallows all answers of its connection: Redis carries out what the node never hears of. */
  deafenAfter(command) {
    this.isDeafAfter = command;
  }

  /** Holds a connection back from the first command on that matches, until `release`. Resolves when it has come. */
  hold(command) {
    return new Promise((begun) => (this.holding = { command, begun }));
  }

  /** Lets through what `hold` holds back. */
  release() {
    const { later } = this.holding;
    this.holding = undefined;
    later?.();
  }

  /** Lets everything through again. What was held back is lost with its connections. */
  heal() {
    this.isCut = false;
    this.isDeafAfter = undefined;
    for (const pair of this.pairs) if (pair.isDeaf) pair.near.destroy();
    if (this.isMute) for (const pair of this.pairs) if (pair.pushed) pair.near.destroy();
    this.isMute = false;
  }

  stop() {
    this.cut();
    return new Promise((resolve) => this.server.close(resolve));
  }
}
