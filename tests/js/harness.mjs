// What every test file imports. See support/ for the parts.
//
// SWITCHBOARD_BIN       the binary under test (default: target/debug/switchboard)
// SWITCHBOARD_TEST_SEED repeats a random run
// SWITCHBOARD_TEST_ONLY `embedded` or `redis`: only that half of the suites that run against both; with `embedded`, a test
//                       that asks for a Redis of its own is skipped too

import { after, before, describe, test as nodeTest } from 'node:test';
import { closeClients } from './support/client.mjs';
import { Link } from './support/link.mjs';
import { nodes, startNode, startRedis } from './support/process.mjs';
import { dropRaw } from './support/raw.mjs';
import { within } from './support/wait.mjs';

export * from './support/api.mjs';
export * from './support/client.mjs';
export * from './support/jar.mjs';
export * from './support/link.mjs';
export * from './support/process.mjs';
export * from './support/raw.mjs';
export * from './support/wait.mjs';
export { after, before, describe };

/** Ends a test that asks for a Redis where there is none. */
class NeedsRedis extends Error {}

/**
 * node:test's test, bounded by `ms`. The body gets `node(settings)`, `redis(options)` and `link(redis)`, which start what ends
 * with the test, `owned(end)` for what else is to end with it, and `note(text)`. Clients it leaves are closed; when it
 * fails, what the nodes logged meanwhile is printed.
 */
export function test(name, options, body) {
  if (typeof options === 'function') [options, body] = [{}, options];
  const { ms = 60000, ...rest } = options;
  return nodeTest(name, { timeout: ms + 20000, ...rest }, async (t) => {
    const marks = new Map([...nodes].map((node) => [node, node.lines.length]));
    const started = new Set();
    const all = () => new Set([...marks.keys(), ...nodes, ...started]);
    const owned = [];
    /** Starts a node that belongs to this test. */
    const node = async (settings) => {
      const one = await startNode(settings);
      started.add(one);
      owned.push(() => one.kill());
      return one;
    };
    const redis = async (options) => {
      if (process.env.SWITCHBOARD_TEST_ONLY === 'embedded') throw new NeedsRedis();
      const one = await startRedis(options);
      owned.push(() => one.stop());
      return one;
    };
    /** A way to a Redis that can be cut; nodes take it as `redis`. */
    const link = async (to) => {
      const one = await Link.open(to);
      owned.push(() => one.stop());
      return one;
    };
    try {
      await within(ms, `the test "${name}" comes to its end`, body({ node, redis, link, owned: (end) => owned.push(end), note: (text) => t.diagnostic(text) }));
    } catch (error) {
      if (error instanceof NeedsRedis) return t.skip('needs Redis');
      for (const one of all()) {
        const lines = one.lines.slice(marks.get(one) ?? 0);
        console.error(`--- "${name}" failed; log of ${one.name} (pid ${one.pid}) meanwhile, ${lines.length} lines${lines.length > 80 ? ', the last 80' : ''} ---`);
        console.error(lines.slice(-80).join('\n'));
      }
      throw error;
    } finally {
      closeClients();
      dropRaw();
      await Promise.all(owned.map((end) => end()));
    }
  });
}

/**
 * Runs the tests of `body` twice: against the embedded registry, and against Redis. `world.door` is the node that clients
 * connect to, `world.desk` the one whose API is asked: with Redis it is another node, so every answer has crossed the
 * cluster. `world.count` is how many nodes there are.
 *
 * `env` and `config` go to every node. `env` may be a function that gets the world, with `world.redis` running where there
 * is one; what it starts ends with `world.owned(end)`.
 */
export function onBothRegistries(body, { env = {}, config } = {}) {
  for (const registry of ['embedded', 'redis']) {
    const only = process.env.SWITCHBOARD_TEST_ONLY;
    if (only && only !== registry) continue;
    describe(`[${registry}]`, () => {
      const owned = [];
      const world = { registry, owned: (end) => owned.push(end) };
      before(async () => {
        if (registry === 'redis') world.redis = await startRedis();
        const settings = typeof env === 'function' ? await env(world) : env;
        if (registry === 'redis') {
          [world.door, world.desk] = await Promise.all([
            startNode({ redis: world.redis, name: 'door', env: settings, config }),
            startNode({ redis: world.redis, name: 'desk', env: settings, config }),
          ]);
          world.count = 2;
        } else {
          world.door = world.desk = await startNode({ name: 'alone', env: settings, config });
          world.count = 1;
        }
        world.api = world.desk.api;
      });
      after(async () => {
        await Promise.all([world.door?.kill(), world.desk?.kill()]);
        await Promise.all(owned.map((end) => end()));
        await world.redis?.stop();
      });
      body(world);
    });
  }
}

let people = 0;
/** A user id that no other test uses. */
export const someone = (kind = 'user') => `${kind}-${process.pid}-${(people += 1)}`;
