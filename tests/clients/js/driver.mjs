// The stock JavaScript client as a driver: node driver.mjs PACKAGE. See ../driver.mjs for what it reads and prints.

import { createRequire } from 'node:module';
import readline from 'node:readline';

const require = createRequire(new URL('../../js/package.json', import.meta.url));
const { io } = require(process.argv[2]);
const sockets = new Map();

const binary = (value) => (value?.$base64 === undefined ? value : Buffer.from(value.$base64, 'base64'));
const shown = (value) => (Buffer.isBuffer(value) ? { $base64: value.toString('base64') } : value);
const say = (client, name, ...args) => console.log(JSON.stringify({ client, name, args: args.map(shown) }));

const commands = {
  open({ client, url, transports, auth }) {
    const socket = io(url, { forceNew: true, transports, auth, reconnectionDelay: 200, reconnectionDelayMax: 500 });
    sockets.set(client, socket);
    socket.on('connect', () => say(client, 'connect'));
    socket.on('connect_error', ({ message, data }) => say(client, 'connect_error', { message, data }));
    socket.on('disconnect', (reason) => say(client, 'disconnect', reason));
    socket.onAny((name, ...args) => {
      const ack = typeof args.at(-1) === 'function' ? args.pop() : undefined;
      say(client, name, ...args);
      ack?.(...args);
    });
  },
  ask({ client, event, args }) {
    sockets.get(client).emit(event, ...args.map(binary), (...answer) => say(client, 'ack', ...answer));
  },
  close({ client }) {
    sockets.get(client).close();
  },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  commands[command.do](command);
}
process.exit();
