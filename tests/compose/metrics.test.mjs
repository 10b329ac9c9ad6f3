// What Prometheus sees of the fleet.

import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { afterEach, before, describe, test } from 'node:test';
import { exchange } from '../js/support/api.mjs';
import { closeClients } from '../js/support/client.mjs';
import { eventually } from '../js/support/wait.mjs';
import { crowd, everybodyListed, someone } from './support/clients.mjs';
import { PROMETHEUS, ROOT, api as operators, seconds } from './support/docker.mjs';

let api;
before(async () => {
  api = await operators();
});
afterEach(() => closeClients());

async function ask(path) {
  const { status, json, text } = await exchange(PROMETHEUS, 'GET', path);
  assert.equal(status, 200, text);
  return json.data;
}

/** The values of an expression, one for each series. */
async function values(expression) {
  const { result } = await ask(`/api/v1/query?query=${encodeURIComponent(expression)}`);
  return result.map(({ value }) => Number(value[1]));
}

const bound = { ms: seconds(40), every: 500 };

describe('Prometheus', () => {
  test('sees every replica up, and nothing down', async () => {
    await eventually('three nodes are up', async () => assert.deepEqual(await values('up{job="switchboard"}'), [1, 1, 1]), bound);
    const { activeTargets } = await ask('/api/v1/targets?state=active');
    assert.deepEqual(activeTargets.filter(({ health }) => health !== 'up'), []);
  });

  test('says of the cluster what the registry says, from every node', async () => {
    const user = someone('counted');
    const clients = await crowd(7, user);
    await everybodyListed(api, user, clients);
    for (const wanted of [7, 4]) {
      for (const client of clients.splice(wanted)) client.socket.close();
      await eventually(`every node reports ${wanted} connections`, async () => {
        assert.equal((await api.stats()).connections, wanted);
        assert.deepEqual(await values('switchboard_cluster_connections'), [wanted, wanted, wanted]);
        assert.deepEqual(await values('sum(switchboard_connections)'), [wanted]);
        assert.deepEqual(await values('max(switchboard_cluster_users)'), [1]);
      }, bound);
    }
    assert.deepEqual(await values('switchboard_bus_up'), [1, 1, 1]);
    assert.deepEqual(await values('sum(switchboard_messages_dropped_total)'), [0]);
  });

  test('has every file of rules loaded, and evaluates them without an error', async () => {
    const directory = path.join(ROOT, 'deploy/prometheus/rules');
    const files = existsSync(directory) ? readdirSync(directory).filter((name) => name.endsWith('.yml')) : [];
    const { groups } = await ask('/api/v1/rules');
    assert.deepEqual([...new Set(groups.map(({ file }) => path.basename(file)))].sort(), files.sort());
    const rules = groups.flatMap((group) => group.rules);
    for (const type of ['alerting', 'recording']) assert.ok(rules.some((rule) => rule.type === type), `expected ${type} rules`);
    assert.deepEqual(rules.filter(({ lastError }) => lastError), []);
  });
});
