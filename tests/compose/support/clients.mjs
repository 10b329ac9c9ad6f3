// Stock clients of the fleet, many at a time.

import assert from 'node:assert/strict';
import { connect } from '../../js/support/client.mjs';
import { eventually } from '../../js/support/wait.mjs';
import { PUBLIC, seconds, token } from './docker.mjs';

let made = 0;
/** A user id that no other test uses. */
export const someone = (name) => `${name}-${process.pid}-${(made += 1)}`;

/** Long-polling only, and cookies kept as a browser keeps them. */
export const POLLING = { transports: ['polling'], upgrade: false, withCredentials: true };

/** What a page does that names nothing: polling first, then the upgrade to a WebSocket. */
export const STOCK = { transports: ['polling', 'websocket'], withCredentials: true };

/** A client of the balancer, which has `ready`. Comes back quickly, so that tests need not wait for its patience. */
export async function join(user, { claims, url = PUBLIC, ...options } = {}) {
  const client = connect(url, { token: await token(user, claims), reconnectionDelay: 200, reconnectionDelayMax: 1000, ...options });
  client.node = (await client.ready({ ms: seconds(20) })).nodeId;
  return client;
}

/**
 * `count` of them, one after the other, so that the balancer's count of connections decides where each WebSocket goes. Each has a
 * user agent of its own: until a client brings the balancer's cookie, its polls go by its address and its user agent.
 */
export async function crowd(count, user, options) {
  const clients = [];
  for (let i = 0; i < count; i += 1) {
    const extraHeaders = { 'User-Agent': someone('agent') };
    clients.push(await join(typeof user === 'function' ? user(i) : user, { label: `client ${i}`, extraHeaders, ...options }));
  }
  return clients;
}

/** Clients by node. */
export function byNode(clients) {
  const nodes = new Map();
  for (const client of clients) nodes.set(client.node, [...(nodes.get(client.node) ?? []), client]);
  return nodes;
}

/** The node that a client's last `ready` came from. */
export const lastNode = (client) => client.seen.filter(({ name }) => name === 'ready').at(-1).args[0].nodeId;

/** Resolves when every client is connected, has its `ready`, and its connection is listed, each exactly once. */
export async function everybodyListed(api, user, clients, { ms = seconds(40) } = {}) {
  const own = ({ seen }) => seen.filter(({ name }) => name === 'ready').at(-1)?.args[0].connectionId;
  await eventually(`the registry lists exactly the ${clients.length} connections of ${user}`, async () => {
    for (const client of clients) assert.ok(client.socket.connected, `${client.label} is not connected; it got: ${client.history().slice(-600)}`);
    const { connections } = await api.user(user);
    assert.deepEqual(connections.map(({ id }) => id).sort(), clients.map(own).sort(), 'expected [listed] to be [connected]');
  }, { ms, every: 200 });
}

/** Names of what happened to a client, `ready` and below. */
export const ends = (client) => client.seen.filter(({ name }) => name === 'disconnect').length;
