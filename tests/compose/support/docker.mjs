// The fleet of docker-compose.yml as these tests see it: containers, ports, secrets. tests/compose/run starts it and says
// where it is by COMPOSE_PROJECT_NAME and the variables of docker-compose.yml.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Api } from '../../js/support/api.mjs';
import { token as sign } from '../../js/support/process.mjs';
import { eventually } from '../../js/support/wait.mjs';

/** The root of the repository, where docker-compose.yml is. */
export const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

export const PROJECT = process.env.COMPOSE_PROJECT_NAME;
if (!PROJECT || !existsSync(`${ROOT}/docker-compose.yml`)) throw new Error('no fleet to test: start these tests by tests/compose/run');

/** Factor on every bound, for a machine that is busy with other things. */
const PATIENCE = Number(process.env.SWITCHBOARD_TEST_PATIENCE ?? 1);

/** `seconds` as milliseconds, times SWITCHBOARD_TEST_PATIENCE. */
export const seconds = (count) => count * 1000 * PATIENCE;

/** Runs a program to its end; resolves to `{code, stdout, stderr}`. */
export function run(command, args, { env = {}, cwd = ROOT } = {}) {
  return new Promise((resolve, reject) => {
    execFile(command, args, { cwd, env: { ...process.env, ...env }, maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      if (error && typeof error.code !== 'number') reject(error);
      else resolve({ code: error?.code ?? 0, stdout, stderr });
    });
  });
}

/** Runs docker, which must succeed; resolves to what it printed. */
export async function docker(...args) {
  const { code, stdout, stderr } = await run('docker', args);
  assert.equal(code, 0, `expected "docker ${args.join(' ')}" to succeed, got ${code}: ${stderr.trim()} ${stdout.trim()}`);
  return stdout.trim();
}

/** Runs docker compose. */
export const compose = (...args) => docker('compose', ...args);

/** Runs a program in a container of a service; resolves to what it printed. */
export const inside = (service, ...args) => compose('exec', '-T', service, ...args);

/** What docker says of the containers of a service, those that ended too if `all`. */
export async function containers(service, { all = false } = {}) {
  const filters = [`label=com.docker.compose.project=${PROJECT}`, `label=com.docker.compose.service=${service}`, 'label=com.docker.compose.oneoff=False'];
  const ids = await docker('ps', '-q', '--no-trunc', ...(all ? ['-a'] : []), ...filters.flatMap((one) => ['--filter', one]));
  return ids ? JSON.parse(await docker('inspect', ...ids.split('\n'))) : [];
}

/** The container that a node runs in, by the name it gives itself: its host name, which is the container's short id. */
export async function containerOf(nodeId) {
  const found = (await containers('switchboard')).find(({ Id }) => nodeId.startsWith(Id.slice(0, 12)));
  assert.ok(found, `expected a running container of node ${nodeId}`);
  return found;
}

/** Starts what is to run and waits until all of it is healthy. */
export const up = (...args) => compose('up', '-d', '--wait', '--no-build', '--no-recreate', ...args);

const url = (variable) => `http://${process.env[variable]}`;

/** Where clients connect. */
export const PUBLIC = url('SWITCHBOARD_PUBLIC');
/** Where operators call /v1. */
export const OPERATORS = url('SWITCHBOARD_OPERATORS');
export const PROMETHEUS = url('SWITCHBOARD_PROMETHEUS');

const secret = (name) => inside('switchboard', 'cat', `/run/secrets/switchboard/${name}`);
let signing;

/** A token as a login service would sign it, with the secret that the fleet made up. */
export async function token(user, claims = {}) {
  signing ??= await secret('jwt-secret');
  return sign(user, { exp: Math.floor(Date.now() / 1000) + 3600, ...claims }, { secret: signing });
}

/** The HTTP API as operators reach it, with the fleet's own key. */
export const api = async () => new Api(OPERATORS, await secret('api-key'));

const AS_ADMIN = 'REDISCLI_AUTH=$(cat /run/secrets/redis-admin-password) redis-cli --no-auth-warning --user admin';

/** A command of Redis's as its administrator; resolves to lines. */
export const redis = async (...words) => (await inside('redis', 'sh', '-c', `${AS_ADMIN} "$@"`, 'sh', ...words)).split('\n').filter(Boolean);

/** Whether `user` may run each of `commands`, without running one: resolves to "OK" or what is missing, for each. */
export async function mayRun(user, commands) {
  const lines = commands.map((words) => ['ACL', 'DRYRUN', user, ...words].map((word) => JSON.stringify(word)).join(' '));
  const text = await inside('redis', 'sh', '-c', `printf '%s\\n' "$@" | ${AS_ADMIN}`, 'sh', ...lines);
  const answers = text.split('\n').filter(Boolean);
  assert.equal(answers.length, commands.length, `expected an answer to each of ${commands.join('; ')}, got ${text}`);
  return answers;
}

/** Resolves when the fleet, the balancer and the registry agree on `nodes` ready nodes. */
export async function settled(nodes) {
  const operators = await api();
  await eventually(`${nodes} nodes are in the registry`, async () => assert.equal((await operators.stats()).nodes, nodes), { ms: seconds(40), every: 250 });
}

/** Ends of containers while `work` runs: resolves to a map from container id to exit code. */
export async function deaths(work) {
  const args = ['events', '--filter', `label=com.docker.compose.project=${PROJECT}`, '--filter', 'event=die', '--format', '{{.ID}} {{index .Actor.Attributes "exitCode"}}'];
  const events = spawn('docker', args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  events.stdout.setEncoding('utf8').on('data', (part) => (text += part));
  try {
    await work();
  } finally {
    events.kill();
    await new Promise((resolve) => (events.exitCode === null && events.signalCode === null ? events.on('close', resolve) : resolve()));
  }
  return new Map(text.trim().split('\n').filter(Boolean).map((line) => line.split(' ')).map(([id, code]) => [id, Number(code)]));
}
