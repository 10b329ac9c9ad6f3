// "docker compose --profile example up": the sample application beside a fleet of its own.

import assert from 'node:assert/strict';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';
import { exchange } from '../js/support/api.mjs';
import { closeClients, connect } from '../js/support/client.mjs';
import { eventually } from '../js/support/wait.mjs';
import { PROJECT, ROOT, run, seconds } from './support/docker.mjs';

const NODE_IMAGE = 'node:22-slim';
const STAND_IN = `${PROJECT}-node`;

/** docker compose with profiles, in a project of its own on ports of its own; it must succeed. Resolves to what it printed. */
async function compose(profiles, args, env = {}) {
  const flags = profiles.flatMap((profile) => ['--profile', profile]);
  const { code, stdout, stderr } = await run('docker', ['compose', '-p', `${PROJECT}-example`, ...flags, ...args], { env });
  assert.equal(code, 0, `docker compose ${args.join(' ')}: ${stderr.trim()} ${stdout.trim()}`);
  return stdout.trim();
}

const services = async (...profiles) => JSON.parse(await compose(profiles, ['config', '--format', 'json'])).services;

describe('the profiles', () => {
  test('without them nothing of the application is there, and nodes call no backend', async () => {
    const all = await services();
    assert.deepEqual(Object.keys(all).filter((name) => name.startsWith('example')), []);
    assert.ok(!JSON.stringify(all.switchboard).includes('BACKENDS'));
  });

  for (const name of ['example', 'example-python']) {
    test(`${name} is the application by the name that nodes call, on the loopback alone, bounded and without rights`, async () => {
      const all = await services(name);
      assert.deepEqual(Object.keys(all).filter((service) => service.startsWith('example')).sort(), [name, 'example-config'].sort());
      const { networks, cap_drop: dropped, read_only: readOnly, mem_limit: limit, security_opt: options } = all[name];
      assert.deepEqual([networks, dropped, readOnly, options], [{ front: { aliases: ['example'] } }, ['ALL'], true, ['no-new-privileges:true']]);
      assert.ok(limit > 0);
      const { ports: [{ target }], build } = (await services(name))[name];
      assert.deepEqual([target, build.context], [8000, `${ROOT}examples/app`]);
    });
  }
});

describe('the application', () => {
  let base;
  let env;
  before(async () => {
    const [port, fleet, operators] = await freePorts(3);
    const image = (await have(NODE_IMAGE)) ? NODE_IMAGE : await standIn();
    base = `http://127.0.0.1:${port}`;
    env = {
      SWITCHBOARD_EXAMPLE: `127.0.0.1:${port}`, SWITCHBOARD_PUBLIC: `127.0.0.1:${fleet}`, SWITCHBOARD_OPERATORS: `127.0.0.1:${operators}`,
      SWITCHBOARD_EXAMPLE_URL: `http://127.0.0.1:${fleet}`, SWITCHBOARD_EXAMPLE_PAGE: base, SWITCHBOARD_EXAMPLE_NODE_IMAGE: image,
    };
    await compose(['example'], ['build', 'example'], env);
    await compose(['example'], ['up', '-d', '--no-build', '--wait', '--scale', 'switchboard=2', 'example', 'switchboard', 'haproxy'], env);
  });
  after(async () => {
    closeClients();
    await compose(['example'], ['down', '-v', '--rmi', 'local', '--timeout', '1'], env);
    await run('docker', ['image', 'rm', STAND_IN]);
  });

  const post = async (path, json, headers = {}) => exchange(base, 'POST', path, { headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(json) });

  test('logs people in, carries what one says to the other through the fleet, and kicks', async () => {
    await eventually('the page is served', async () => assert.match((await exchange(base, 'GET', '/')).text, /<title>Chat<\/title>/), { ms: seconds(20) });
    const people = {};
    for (const name of ['alice', 'bob']) {
      const { url, token } = JSON.parse((await post('/login', { name })).text);
      people[name] = { token, client: connect(url, { token, extraHeaders: { origin: base } }) };
      await people[name].client.ready({ ms: seconds(20) });
    }
    const { alice, bob } = people;
    let said;
    await eventually('the nodes find the backend', async () => {
      said = await alice.client.ask('chat:say', 'hello');
      assert.equal(said.ok, true, JSON.stringify(said));
    }, { ms: seconds(20) });
    for (const { client } of [alice, bob]) assert.deepEqual(await client.wait('said', { ms: seconds(5) }), [{ from: 'alice', text: 'hello', at: said.at }]);
    await eventually('alice sees that bob is there', () => alice.client.seen.some(({ name, args }) => name === 'presence' && args[0].userId === 'bob' && args[0].online));
    const kicked = await post('/kick/bob', {}, { authorization: `Bearer ${alice.token}` });
    assert.deepEqual(JSON.parse(kicked.text), { disconnected: 1, nodes: 1, remaining: [] });
    await bob.client.kicked(4500, 'Kicked by alice');
  });
});

/** Whether an image is there, or can be pulled. */
async function have(image) {
  for (const words of [['image', 'inspect', image], ['pull', '-q', image]]) if ((await run('docker', words)).code === 0) return true;
  return false;
}

/** An image with Node.js and npm, for a machine without an image registry: what the nodes' own image takes the client with. */
async function standIn() {
  const { code, stderr } = await run('docker', ['build', '-q', '-f', 'deploy/Dockerfile', '--target', 'npm', '-t', STAND_IN, '.']);
  assert.equal(code, 0, stderr);
  return STAND_IN;
}

async function freePorts(count) {
  const servers = await Promise.all(Array.from({ length: count }, () => new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => resolve(server));
  })));
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}
