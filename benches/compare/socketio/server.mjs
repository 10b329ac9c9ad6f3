// A node of Socket.IO with its Redis adapter, for benches/compare: clients say at connect which rooms they are in, and a backend
// sends to a room, or to all, by HTTP.
//
//   REDIS_URL=redis://127.0.0.1:6379 node server.mjs               the classic adapter: each node hears every message
//   REDIS_URL=redis://127.0.0.1:6379 node server.mjs sharded       sharded, with a channel for each room: only its nodes hear
import { createServer } from 'node:http';
import { createAdapter, createShardedAdapter } from '@socket.io/redis-adapter';
import { createClient } from 'redis';
import { Server } from 'socket.io';

const publisher = createClient({ url: process.env.REDIS_URL });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);
const adapter = process.argv[2] === 'sharded' ? createShardedAdapter(publisher, subscriber, { subscriptionMode: 'dynamic' }) : createAdapter(publisher, subscriber);

const http = createServer(async (request, response) => {
  let body = '';
  for await (const part of request) body += part;
  const { room, event, data } = JSON.parse(body);
  switch (request.url) {
    case '/send':
      (room ? io.to(room) : io).emit(event, data);
      response.writeHead(204).end();
      break;
    case '/sockets': {
      const sockets = await io.in(room).fetchSockets();
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(sockets.map((socket) => socket.id)));
      break;
    }
    default:
      response.writeHead(404).end();
  }
});
const io = new Server(http, { adapter, serveClient: false });
io.on('connection', (socket) => socket.join(socket.handshake.auth.rooms));
http.listen(0, '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${http.address().port}`));
