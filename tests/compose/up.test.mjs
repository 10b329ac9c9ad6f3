// What "docker compose up" makes: images, containers, ports, secrets.

import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, appendFileSync, rmSync, chownSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import { closeClients, connect } from '../js/support/client.mjs';
import { PROJECT, PUBLIC, ROOT, compose, containers, docker, inside, run, seconds } from './support/docker.mjs';

const IMAGE = process.env.SWITCHBOARD_IMAGE;
const MEGABYTE = 1_000_000;

/** The compose file, with nothing set. */
async function asWritten() {
  const names = Object.keys(process.env).filter((name) => name.startsWith('SWITCHBOARD_') || name.startsWith('COMPOSE_'));
  const { code, stdout, stderr } = await run('docker', ['compose', '--profile', 'grafana', 'config', '--format', 'json'], {
    env: Object.fromEntries(names.map((name) => [name, undefined])),
  });
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
}

describe('the containers', () => {
  test('three nodes, Redis, balancer and Prometheus are up and healthy, and the secrets are made', async () => {
    for (const [service, count] of [['switchboard', 3], ['redis', 1], ['haproxy', 1], ['prometheus', 1]]) {
      const states = (await containers(service)).map(({ State }) => `${State.Status}, ${State.Health?.Status}`);
      assert.deepEqual(states, Array(count).fill('running, healthy'), `expected ${count} healthy container(s) of ${service}`);
    }
    const [secrets] = await containers('secrets', { all: true });
    assert.deepEqual([secrets.State.Status, secrets.State.ExitCode], ['exited', 0]);
  });

  test('each has a read-only root, no capabilities, no way to new privileges, a bounded log and no root user', async () => {
    for (const service of ['switchboard', 'redis', 'haproxy', 'prometheus']) {
      for (const { Name, Config, HostConfig } of await containers(service)) {
        const { ReadonlyRootfs, CapDrop, CapAdd, SecurityOpt, LogConfig, RestartPolicy } = HostConfig;
        assert.deepEqual(
          { ReadonlyRootfs, CapDrop, CapAdd: CapAdd ?? [], SecurityOpt, restart: RestartPolicy.Name },
          { ReadonlyRootfs: true, CapDrop: ['ALL'], CapAdd: [], SecurityOpt: ['no-new-privileges:true'], restart: 'unless-stopped' },
          Name,
        );
        assert.deepEqual([LogConfig.Config['max-size'], LogConfig.Config['max-file']], ['10m', '3'], Name);
        assert.match(Config.User, /^[1-9]\d*:[1-9]\d*$/, `${Name} runs as "${Config.User}"`);
      }
    }
  });

  test('pages get the stock client from the image, with its license beside it', async () => {
    for (const name of ['socket.io.js', 'socket.io.min.js', 'socket.io.esm.min.js', 'socket.io.msgpack.min.js']) {
      const answer = await fetch(`${PUBLIC}/socket.io/${name}`);
      assert.equal(answer.status, 200, name);
      assert.match(await answer.text(), /Socket\.IO v4\./, name);
    }
    assert.match(await inside('switchboard', 'cat', '/usr/local/share/socket.io-client/LICENSE'), /MIT/);
  });

  test('a node runs as 10001 without capabilities, and can write neither its root nor its secrets', async () => {
    assert.equal((await inside('switchboard', 'id', '-u')).trim(), '10001');
    const status = await inside('switchboard', 'cat', '/proc/1/status');
    assert.match(status, /^Uid:\s+10001\s/m);
    assert.match(status, /^Cap(Eff|Bnd):\s+0+$/m);
    for (const file of ['/x', '/tmp/x', '/usr/local/bin/switchboard', '/run/secrets/switchboard/api-key', '/run/secrets/switchboard/x']) {
      const { code, stderr } = await run('docker', ['compose', 'exec', '-T', 'switchboard', 'sh', '-c', `: >>${file}`]);
      assert.notEqual(code, 0, `expected ${file} not to be writable in a node`);
      assert.match(stderr, /Read-only file system|Permission denied/);
    }
  });

  test('only the balancer and Prometheus listen on this machine; for everybody only port 8080', async () => {
    const { services, networks, name } = await asWritten();
    assert.equal(name, 'switchboard');
    const published = Object.fromEntries(Object.entries(services).map(([service, { ports }]) => [service, (ports ?? []).map(({ host_ip: ip, published: port }) => `${ip ?? '*'}:${port}`)]));
    assert.deepEqual(published, {
      grafana: ['127.0.0.1:3001'], haproxy: ['*:8080', '127.0.0.1:8081'], prometheus: ['127.0.0.1:9090'], redis: [], secrets: [], switchboard: [],
    });
    assert.equal(networks.back.internal, true);
    for (const [service, { mem_limit: limit }] of Object.entries(services)) assert.ok(limit > 0, `expected ${service} to have a limit of memory`);
    assert.equal(services.switchboard.environment.SWITCHBOARD_TRUSTED_PROXIES, '172.16.0.0/12,192.168.0.0/16');
    const on = (network) => Object.keys(services).filter((service) => network in (services[service].networks ?? {})).sort();
    assert.deepEqual([on('front'), on('back')], [['haproxy', 'switchboard'], ['redis', 'switchboard']]);
  });

  test('docker compose exec switchboard switchboard token --user alice prints a token that is let in', async () => {
    const token = await inside('switchboard', 'switchboard', 'token', '--user', 'alice');
    assert.match(token, /^[\w-]+\.[\w-]+\.[\w-]+$/, 'expected a token and nothing else');
    const client = connect(PUBLIC, { token });
    try {
      assert.equal((await client.ready({ ms: seconds(10) })).userId, 'alice');
    } finally {
      closeClients();
    }
  });
});

describe('the image', () => {
  test('is below 120 MB, has labels, a health check and a user', async () => {
    const [{ Size, Config }] = JSON.parse(await docker('image', 'inspect', IMAGE));
    console.log(`the image has ${(Size / MEGABYTE).toFixed(1)} MB`);
    assert.ok(Size < 120 * MEGABYTE, `expected less than 120 MB, got ${Size / MEGABYTE}`);
    assert.equal(Config.User, '10001:10001');
    assert.deepEqual(Config.Healthcheck.Test, ['CMD', 'switchboard', 'healthcheck']);
    for (const label of ['title', 'description', 'licenses', 'version', 'revision']) assert.ok(Config.Labels[`org.opencontainers.image.${label}`], `expected the label ${label}`);
  });

  test('a changed source leaves the layer of the dependencies alone', { skip: process.env.SWITCHBOARD_TEST_IMAGE && 'the image was not built here' }, async () => {
    const context = mkdtempSync(path.join(os.tmpdir(), 'switchboard-context-'));
    try {
      for (const name of ['Cargo.toml', 'Cargo.lock', '.dockerignore', 'src', 'deploy/Dockerfile']) cpSync(path.join(ROOT, name), path.join(context, name), { recursive: true });
      appendFileSync(path.join(context, 'src/lib.rs'), '\n// changed\n');
      const { code, stderr } = await run('docker', ['build', '--progress=plain', '--target', 'dependencies', '-f', 'deploy/Dockerfile', '.'], { cwd: context, env: { DOCKER_BUILDKIT: '1' } });
      assert.equal(code, 0, stderr);
      const step = /^#(\d+) \[.*\] RUN --mount=type=secret/m.exec(stderr);
      assert.ok(step, `expected a step that builds the dependencies: ${stderr}`);
      assert.match(stderr, new RegExp(`^#${step[1]} CACHED$`, 'm'));
    } finally {
      rmSync(context, { recursive: true });
    }
  });
});

describe('the secrets', () => {
  const projects = ['a', 'b'].map((name) => `${PROJECT}-${name}`);
  const make = (project, env = {}) => run('docker', ['compose', '-p', project, 'run', '--rm', '-T', '--no-deps', 'secrets'], { env });
  /** Every file of a project's secrets: `{path: "mode uid:gid value"}`. */
  async function made(project) {
    const mounts = ['node', 'redis', 'grafana'].flatMap((name) => ['-v', `${project}_${name}-secrets:/secrets/${name}:ro`]);
    const text = await docker('run', '--rm', '--network', 'none', ...mounts, '--entrypoint', 'sh', 'redis:8', '-c',
      'cd /secrets; find . -mindepth 1 -type d -exec stat -c "%n %a %u:%g" {} +; for f in */*; do echo "$f $(stat -c "%a %u:%g" $f) $(cat $f)"; done');
    return Object.fromEntries(text.split('\n').map((line) => [line.split(' ')[0], line.slice(line.indexOf(' ') + 1)]));
  }

  test('differ between two fleets, stay when they are there, give way to .env, and only their readers can read them', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'switchboard-secrets-'));
    try {
      for (const project of projects) assert.equal((await make(project)).code, 0);
      const [one, other] = await Promise.all(projects.map(made));
      const hidden = { 'node/api-key': 10001, 'node/jwt-secret': 10001, 'node/redis-url': 10001, 'redis/redis-password': 999, 'redis/redis-admin-password': 999, 'grafana/admin-password': 472 };
      const directories = { './node': '750 0:10001', './redis': '750 0:999', './grafana': '750 0:472' };
      assert.deepEqual(Object.keys(one).sort(), [...Object.keys(hidden), ...Object.keys(directories)].sort());
      for (const [name, mode] of Object.entries(directories)) assert.equal(one[name], mode);
      const values = [];
      for (const [name, group] of Object.entries(hidden)) {
        const [mode, owner, value] = one[name].split(' ');
        assert.deepEqual([mode, owner], ['440', `0:${group}`], name);
        assert.match(value, name === 'node/redis-url' ? /^redis:\/\/switchboard:[0-9a-f]{64}@redis:6379\/0$/ : /^[0-9a-f]{64}$/, name);
        assert.notEqual(one[name], other[name], `expected ${name} to differ between two fleets`);
        values.push(value);
      }
      assert.equal(new Set(values).size, values.length, 'expected no secret to be there twice');

      assert.equal((await make(projects[0])).code, 0);
      assert.deepEqual(await made(projects[0]), one, 'expected a second start to keep them');

      const own = 'a-secret-of-ones-own-that-is-long-enough';
      assert.equal((await make(projects[0], { SWITCHBOARD_JWT_SECRET: own })).code, 0);
      const changed = await made(projects[0]);
      assert.deepEqual(changed, { ...one, 'node/jwt-secret': `440 0:10001 ${own}` });

      // A file is no variable of a container, which docker inspect shows. It may belong to anybody.
      const file = path.join(folder, 'api-key');
      writeFileSync(file, 'a-key-of-ones-own-0123456789\n', { mode: 0o600 });
      if (process.getuid() === 0) chownSync(file, 1234, 1234);
      assert.equal((await make(projects[0], { SWITCHBOARD_API_KEY_FILE: file, SWITCHBOARD_API_KEY: 'the-variable' })).code, 0);
      assert.deepEqual(await made(projects[0]), { ...changed, 'node/api-key': '440 0:10001 a-key-of-ones-own-0123456789' });
    } finally {
      rmSync(folder, { recursive: true });
      for (const project of projects) await run('docker', ['compose', '-p', project, 'down', '-v', '--timeout', '5']);
    }
  });

  test('none is in the logs or in what docker inspect shows', async () => {
    const values = await Promise.all([
      ...['jwt-secret', 'api-key'].map((name) => inside('switchboard', 'cat', `/run/secrets/switchboard/${name}`)),
      ...['redis-password', 'redis-admin-password'].map((name) => inside('redis', 'cat', `/run/secrets/${name}`)),
    ]);
    const all = await Promise.all(['switchboard', 'redis', 'haproxy', 'prometheus', 'secrets'].map((service) => containers(service, { all: true })));
    const shown = JSON.stringify(all) + (await compose('logs', '--no-color'));
    for (const value of values) assert.ok(!shown.includes(value.trim()), 'expected no secret in the logs or in docker inspect');
  });
});
