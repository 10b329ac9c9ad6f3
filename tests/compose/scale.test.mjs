// More nodes, fewer nodes, other nodes.

import assert from 'node:assert/strict';
import { afterEach, before, describe, test } from 'node:test';
import { exchange } from '../js/support/api.mjs';
import { closeClients } from '../js/support/client.mjs';
import { eventually } from '../js/support/wait.mjs';
import { POLLING, byNode, crowd, ends, everybodyListed, someone } from './support/clients.mjs';
import { PROMETHEUS, api as operators, compose, containers, deaths, seconds, settled, up } from './support/docker.mjs';

let api;
before(async () => {
  api = await operators();
});
afterEach(() => closeClients());

/** How many nodes Prometheus scrapes with success. */
async function scraped() {
  const { json } = await exchange(PROMETHEUS, 'GET', '/api/v1/query?query=sum(up%7Bjob%3D%22switchboard%22%7D)');
  return Number(json.data.result[0]?.value[1]);
}

describe('the fleet', () => {
  test('scaled to five and back to three loses nobody', async () => {
    const user = someone('scaled');
    const clients = [...(await crowd(6, user)), ...(await crowd(3, user, POLLING))];
    const old = new Set((await containers('switchboard')).map(({ Id }) => Id));

    await up('--scale', 'switchboard=5');
    await settled(5);
    for (const client of clients) assert.equal(ends(client), 0, `${client.label}, while nodes were added: ${client.history()}`);
    const isNew = (nodeId) => ![...old].some((id) => nodeId.startsWith(id.slice(0, 12)));
    // The balancer looks at Docker's DNS each second, and sends newcomers where the fewest are.
    const added = [];
    await eventually('newcomers land on both new nodes', async () => {
      added.push(...(await crowd(1, user, added.length % 2 ? POLLING : {})));
      return [...byNode(added).keys()].filter(isNew).length === 2;
    }, { ms: seconds(30), every: 100 });
    clients.push(...added);
    await everybodyListed(api, user, clients);
    await eventually('Prometheus scrapes five', async () => assert.equal(await scraped(), 5), { ms: seconds(40), every: 500 });

    const before = await containers('switchboard');
    // They go on asking, so that those that poll make requests of a node that drains and is not ready.
    const busy = setInterval(() => clients.forEach(({ socket }) => socket.connected && socket.emit('devices', () => {})), 400);
    const codes = await deaths(() => up('--scale', 'switchboard=3')).finally(() => clearInterval(busy));
    const left = new Set((await containers('switchboard')).map(({ Id }) => Id));
    const gone = before.filter(({ Id }) => !left.has(Id));
    assert.equal(gone.length, 2);
    assert.deepEqual(gone.map(({ Id }) => codes.get(Id)), [0, 0], 'expected the nodes that were stopped to exit with 0');
    await settled(3);
    await everybodyListed(api, user, clients);
    let moved = 0;
    for (const client of clients) {
      const was = gone.some(({ Id }) => client.node.startsWith(Id.slice(0, 12)));
      if (was) {
        moved += 1;
        await client.sentAway(4000, 'Server shutting down');
      } else {
        assert.equal(ends(client), 0, `${client.label}, on a node that stays: ${client.history()}`);
      }
    }
    assert.ok(moved >= 2, `expected clients on the nodes that were stopped, got ${moved}`);
    assert.deepEqual(await api.send(user, 'after', 1), { connections: clients.length, nodes: byNode(clients).size - [...byNode(clients).keys()].filter((node) => gone.some(({ Id }) => node.startsWith(Id.slice(0, 12)))).length, unconfirmed: 0 });
    await eventually('Prometheus scrapes three', async () => assert.equal(await scraped(), 3), { ms: seconds(40), every: 500 });
  });

  test('with all its nodes recreated loses nobody', async () => {
    const user = someone('recreated');
    const clients = [...(await crowd(6, user)), ...(await crowd(3, user, POLLING))];
    const old = (await containers('switchboard')).map(({ Id }) => Id);
    await compose('up', '-d', '--wait', '--no-build', '--no-deps', '--force-recreate', 'switchboard');
    const now = (await containers('switchboard')).map(({ Id }) => Id);
    assert.deepEqual([now.length, now.filter((id) => old.includes(id))], [3, []]);
    await settled(3);
    await everybodyListed(api, user, clients);
    await Promise.all(clients.map((client) => client.sentAway(4000, 'Server shutting down')));
  });
});
