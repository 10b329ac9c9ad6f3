// "docker compose down".

import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { closeClients } from '../js/support/client.mjs';
import { POLLING, byNode, crowd, someone } from './support/clients.mjs';
import { compose, containers, deaths, redis } from './support/docker.mjs';

afterEach(() => closeClients());

test('nothing was refused by Redis\'s ACL while nodes and Redis came and went', async () => {
  assert.equal((await redis('ACL', 'LOG')).join(' '), '');
});

test('docker compose down drains: every client is told, every node exits with 0, and the volumes stay', async () => {
  const user = someone('last');
  const clients = [...(await crowd(6, user)), ...(await crowd(6, user, POLLING))];
  assert.equal(byNode(clients).size, 3);
  const nodes = await containers('switchboard');
  const codes = await deaths(() => compose('down'));
  assert.deepEqual(nodes.map(({ Id }) => codes.get(Id)), [0, 0, 0]);
  for (const client of clients) await client.sentAway(4000, 'Server shutting down');
  assert.ok([...codes.values()].every((code) => code !== 137), `expected no container to be killed for taking too long, got ${[...codes.values()]}`);
});
