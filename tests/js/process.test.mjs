// Contract 1: the command line, development mode, configuration and exit codes.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import jwt from 'jsonwebtoken';
import { Api, API_KEY, BINARY, connect, connected, eventually, freePort, JWT_SECRET, Running, runBinary, someone, test, token, writeScratch } from './harness.mjs';

const JWT = /\beyJ[\w-]*\.[\w-]+\.[\w-]+/g;
const secret = { SWITCHBOARD_JWT_SECRET: JWT_SECRET };

/** Runs a line in a shell; resolves to null when there is no such program. */
function shell(line) {
  return new Promise((resolve) => {
    execFile('sh', ['-c', line], { timeout: 10000 }, (error, stdout, stderr) => resolve(error?.code === 127 ? null : { code: error?.code ?? 0, stdout, stderr }));
  });
}

// --- development mode -------------------------------------------------------------------------------------------------

test('development mode: the tokens and the curl line that are printed work', async ({ node, note }) => {
  const door = await node({ bare: true });
  await door.line(/\bcurl\b/);
  assert.match(door.log, /development/i, 'expected the node to say that it is in development mode');
  const tokens = [...new Set(door.log.match(JWT) ?? [])];
  const claims = tokens.map((text) => jwt.decode(text));
  const admin = tokens[claims.findIndex((one) => [one.role, one.roles].flat().includes('admin'))];
  const plain = tokens[claims.findIndex((one) => ![one.role, one.roles].flat().includes('admin'))];
  assert.ok(admin, `expected an admin token in the output:\n${door.log}`);
  assert.ok(plain, `expected a user token in the output:\n${door.log}`);

  const user = await connected(door, { token: plain });
  await connect(door, { token: plain, namespace: '/admin' }).refused('Admin access required');
  const root = await connected(door, { token: admin, namespace: '/admin' });
  assert.ok(user.id && root.id);

  const from = door.lines.findIndex((line) => /\bcurl\b/.test(line));
  let line = door.lines[from].replace(/^.*?(?=\bcurl\b)/, '');
  for (let next = from + 1; line.endsWith('\\'); next += 1) line = line.slice(0, -1) + door.lines[next];
  const key = /Bearer ([^\s'"]+)/.exec(line)?.[1];
  assert.ok(key, `expected the curl line to carry "Authorization: Bearer KEY", got: ${line}`);
  assert.ok(line.includes(`:${door.port}/`), `expected the curl line to name the port that is listened on (${door.port}), got: ${line}`);
  const stats = await new Api(door.url, key).ok('GET', '/v1/stats');
  assert.ok(stats.connections >= 2, `expected the key of the curl line to open the API, got ${JSON.stringify(stats)}`);
  const ran = await shell(`${line.replace(/^curl/, 'curl -sS --max-time 5')}`);
  if (ran === null) return note('no curl here: the line was not run');
  assert.equal(ran.code, 0, `expected the curl line to run, got ${ran.code}: ${ran.stderr}\n${line}`);
  const answer = JSON.parse(ran.stdout);
  assert.ok(answer.status === undefined || answer.status < 400, `expected the curl line not to be refused, got ${ran.stdout}`);
});

test('development mode makes up another secret and key at every start', async ({ node }) => {
  const [one, two] = [await node({ bare: true }), await node({ bare: true })];
  for (const door of [one, two]) await door.line(/\bcurl\b/);
  const [first] = one.log.match(JWT);
  await connect(two, { token: first }).refused('Invalid token');
});

test('with a secret but no key it is not development mode', async ({ node }) => {
  const door = await node({ bare: true, env: secret });
  assert.doesNotMatch(door.log, /development/i, 'expected no development mode when something is configured');
  assert.equal((door.log.match(JWT) ?? []).length, 0, 'expected no token to be printed');
  await connected(door, { user: someone() });
  assert.equal((await door.api.request('GET', '/v1/stats', { key: 'anything' })).status, 401, 'expected no key to open an API that was given none');
});

for (const address of ['0.0.0.0:0', '[::]:0']) {
  test(`with nothing configured it refuses to listen on ${address}, with exit code 64, and says what to set`, async () => {
    const { code, output } = await runBinary(['serve', '--listen', address]);
    assert.equal(code, 64, `expected exit code 64, got ${code}: ${output}`);
    assert.match(output, /SWITCHBOARD_JWT_SECRET|auth\.jwt/, `expected it to say what to set, got: ${output}`);
    assert.doesNotMatch(output, JWT, 'expected no token to be printed');
    assert.doesNotMatch(output, /listening on/, 'expected it not to have listened');
  });
}

test('a secret and a key are enough for any other address', async () => {
  const node = new Running(BINARY, ['serve', '--listen', '0.0.0.0:0'], {
    env: { ...secret, SWITCHBOARD_API_KEY: API_KEY },
    name: 'switchboard on 0.0.0.0',
  });
  try {
    const [, port] = await node.line(/(?<!internal )\blistening on https?:\/\/\S+:(\d+)/);
    await connected(`http://127.0.0.1:${port}`, { user: someone() });
  } finally {
    await node.kill();
  }
});

test('no command means serve', async () => {
  const port = await freePort();
  const node = new Running(BINARY, [], {
    env: { ...secret, SWITCHBOARD_API_KEY: API_KEY, SWITCHBOARD_LISTEN: `127.0.0.1:${port}`, SWITCHBOARD_NODE_ID: 'by-environment' },
    name: 'switchboard without a command',
  });
  try {
    await node.line(/\blistening on /);
    assert.equal((await connect(`http://127.0.0.1:${port}`, { user: someone() }).ready()).nodeId, 'by-environment');
  } finally {
    await node.kill();
  }
});

test('a port that is taken: exit code 1, and the address is named', async ({ node }) => {
  const first = await node();
  const { code, output } = await runBinary(['serve', '--listen', `127.0.0.1:${first.port}`], { env: { ...secret, SWITCHBOARD_API_KEY: API_KEY } });
  assert.equal(code, 1, `expected exit code 1, got ${code}: ${output}`);
  assert.match(output, new RegExp(`127\\.0\\.0\\.1:${first.port}`));
});

// --- configuration ----------------------------------------------------------------------------------------------------

const mistakes = [
  ['an unknown key', 'frobnicate = 1', /frobnicate/],
  ['an unknown nested key', '[auth.jwt]\nsecrte = "0123456789012345678901234567890123456789"', /secrte/],
  ['a value of the wrong type', '[limits]\nconnections = "many"', /connections/],
  ['a duration that is none', '[registry]\nheartbeat = "soon"', /heartbeat/],
  ['a lease that the heartbeat cannot keep', '[registry]\nheartbeat = "10s"\nlease = "5s"', /lease|heartbeat/],
  ['an address that is none', 'internal_listen = "nowhere"', /internal_listen/],
  ['a namespace without its slash', '[[namespaces]]\npath = "chat"', /namespaces|path|chat/],
  ['a key file that is not there', '[auth.jwt]\npublic_key_file = "/does/not/exist.pem"', /public_key_file|\/does\/not\/exist\.pem/],
  ['an unknown algorithm', '[auth.jwt]\nalgorithms = ["HS9000"]', /algorithms|HS9000/],
  ['algorithm none', '[auth.jwt]\nalgorithms = ["none"]', /algorithms|none/i],
  ['text that is no TOML', 'this is = = not toml', /./],
];
for (const [what, text, named] of mistakes) {
  test(`check-config names the key and exits with 1, serve with 64: ${what}`, async () => {
    const file = writeScratch('toml', text);
    const env = { ...secret, SWITCHBOARD_API_KEY: API_KEY };
    const check = await runBinary(['check-config', '--config', file], { env });
    assert.equal(check.code, 1, `expected check-config to exit with 1, got ${check.code}: ${check.output}`);
    assert.match(check.output, named, `expected the error to name the culprit, got: ${check.output}`);
    const serve = await runBinary(['serve', '--listen', '127.0.0.1:0', '--config', file], { env });
    assert.equal(serve.code, 64, `expected serve to exit with 64, got ${serve.code}: ${serve.output}`);
    assert.match(serve.output, named);
  });
}

test('an unknown key in the environment is an error as well', async () => {
  const { code, output } = await runBinary(['check-config'], { env: { ...secret, SWITCHBOARD_LIMITS__CONECTIONS: '5' } });
  assert.equal(code, 1, output);
  assert.match(output, /conections/i, `expected the error to name the key, got: ${output}`);
});

test('check-config of a good configuration exits with 0', async () => {
  const { code, output } = await runBinary(['check-config', '--config', writeScratch('toml', '[limits]\nmax_payload = "500KB"\n')], { env: { ...secret, SWITCHBOARD_API_KEY: API_KEY } });
  assert.equal(code, 0, output);
});

test('a secret that is too short to be one is refused or warned of, and not shown', async () => {
  const { code, output } = await runBinary(['check-config'], { env: { SWITCHBOARD_JWT_SECRET: 'qwertz', SWITCHBOARD_API_KEY: API_KEY } });
  assert.ok([0, 1].includes(code), `expected 0 with a warning or 1, got ${code}`);
  assert.match(output, /secret/i, `expected a word about the secret, got: ${output}`);
  assert.ok(!output.includes('qwertz'), 'expected the secret itself not to be shown');
});

test('defaults < file < environment < flags', async () => {
  const file = writeScratch('toml', 'listen = "127.0.0.1:1111"\nnode_id = "from-file"\n[registry]\nheartbeat = "1s"\nprefix = "from-file"\n');
  const env = { ...secret, SWITCHBOARD_API_KEY: API_KEY, SWITCHBOARD_NODE_ID: 'from-env', SWITCHBOARD_REGISTRY__PREFIX: 'from-env' };
  const { code, stdout } = await runBinary(['print-config', '--config', file, '--node-id', 'from-flag'], { env });
  assert.equal(code, 0);
  assert.match(stdout, /^\s*node_id = "from-flag"$/m, 'expected the flag to win');
  assert.match(stdout, /^\s*prefix = "from-env"$/m, 'expected the environment to go before the file');
  assert.match(stdout, /^\s*heartbeat = "1s"$/m, 'expected the file to go before the defaults');
  assert.match(stdout, /^\s*lease = "10s"$/m, 'expected the default where nothing is set');
  assert.match(stdout, /^\s*listen = "127\.0\.0\.1:1111"$/m);
});

test('print-config masks secrets', async () => {
  const words = ['previous-secret-0123456789-0123456789', 'scoped-key-0123456789-0123456789', 'redis-password'];
  const file = writeScratch('toml', `[auth.jwt]\nprevious_secrets = ["${words[0]}"]\n[[api.keys]]\nname = "shop"\nkey = "${words[1]}"\nscopes = ["send"]\n`);
  const env = { ...secret, SWITCHBOARD_API_KEY: API_KEY, SWITCHBOARD_REDIS_URL: `redis://user:${words[2]}@127.0.0.1:6379/0` };
  const { code, stdout, output } = await runBinary(['print-config', '--config', file], { env });
  assert.equal(code, 0, output);
  for (const word of [JWT_SECRET, API_KEY, ...words]) assert.ok(!output.includes(word), `expected ${word} to be masked in:\n${output}`);
  assert.match(stdout, /shop/, 'expected what is no secret to be shown');
});

// --- tokens -----------------------------------------------------------------------------------------------------------

test('token prints a JWT and nothing else', async () => {
  const { code, stdout } = await runBinary(['token', '--user', '42', '--role', 'admin', '--username', 'ada', '--ttl', '15m', '--claim', 'team=blue', '--claim', 'floor=3'], { env: secret });
  assert.equal(code, 0);
  assert.match(stdout, /^[\w-]+\.[\w-]+\.[\w-]+\n$/, `expected one line with a token, got: ${stdout}`);
  const claims = jwt.verify(stdout.trim(), JWT_SECRET);
  assert.equal(String(claims.sub), '42');
  assert.equal(claims.role, 'admin');
  assert.equal(claims.username, 'ada');
  assert.equal(claims.team, 'blue');
  assert.equal(String(claims.floor), '3');
  assert.equal(claims.exp - claims.iat, 900);
});

test('a token of "switchboard token" opens the door', async ({ node }) => {
  const door = await node();
  const { stdout } = await runBinary(['token', '--user', 'minted'], { env: secret });
  assert.equal((await connect(door, { token: stdout.trim() }).ready()).userId, 'minted');
});

test('token without a key to sign with fails', async () => {
  const { code, stdout, output } = await runBinary(['token', '--user', '42']);
  assert.ok([1, 64].includes(code), `expected exit code 1 or 64 without a signing key, got ${code}: ${output}`);
  assert.doesNotMatch(stdout, JWT);
});

test('check-token prints the identity', async () => {
  const { code, stdout, output } = await runBinary(['check-token', token('42', { username: 'ada', role: 'editor' })], { env: secret });
  assert.equal(code, 0, output);
  for (const word of ['42', 'ada', 'editor']) assert.ok(stdout.includes(word), `expected ${word} in the identity, got: ${stdout}`);
});

for (const [what, make, why] of [
  ['an expired one', () => token('42', { exp: Math.floor(Date.now() / 1000) - 60 }), /expired/i],
  ['one of another signer', () => token('42', {}, { secret: 'another-secret-that-is-also-32-bytes-long' }), /signature|invalid/i],
  ['text that is none', () => 'rubbish', /./],
]) {
  test(`check-token says why and exits with 1: ${what}`, async () => {
    const { code, output } = await runBinary(['check-token', make()], { env: secret });
    assert.equal(code, 1, `expected exit code 1, got ${code}: ${output}`);
    assert.match(output, why, `expected the reason, got: ${output}`);
  });
}

// --- healthcheck and health -------------------------------------------------------------------------------------------

test('healthcheck: 0 when the node answers ready, else not', async ({ node }) => {
  const door = await node();
  assert.equal((await runBinary(['healthcheck', `${door.url}/readyz`])).code, 0, 'expected exit code 0 for the URL of a ready node\'s /readyz');
  const configured = await runBinary(['healthcheck'], { env: { ...secret, SWITCHBOARD_LISTEN: `127.0.0.1:${door.port}` } });
  assert.equal(configured.code, 0, `expected exit code 0 for the configured address, got: ${configured.output}`);
  const port = await freePort();
  assert.notEqual((await runBinary(['healthcheck', `http://127.0.0.1:${port}/readyz`])).code, 0, 'expected a failure where nobody listens');
  assert.notEqual((await runBinary(['healthcheck'], { env: { ...secret, SWITCHBOARD_LISTEN: `127.0.0.1:${port}` } })).code, 0);
});

test('healthcheck fails while the node drains', async ({ node }) => {
  const door = await node({ env: { SWITCHBOARD_DRAIN__DELAY: '5s' } });
  await connected(door, { user: someone(), reconnection: false });
  assert.equal((await runBinary(['healthcheck', `${door.url}/readyz`])).code, 0);
  door.signal('SIGTERM');
  await eventually('healthcheck fails while the node drains', async () => (await runBinary(['healthcheck', `${door.url}/readyz`])).code !== 0);
  assert.ok(!door.ended, 'expected the node to be draining still');
});

test('healthz and readyz need no key', async ({ node }) => {
  const door = await node();
  for (const path of ['/healthz', '/readyz']) assert.equal((await door.api.request('GET', path, { key: null })).status, 200, path);
});

// --- the internal listener --------------------------------------------------------------------------------------------

test('--internal-listen moves /v1, /metrics, /healthz and /readyz off the public listener', async ({ node }) => {
  const door = await node({ internal: true });
  assert.notEqual(door.internalUrl, door.url);
  const outside = new Api(door.url, API_KEY);
  for (const path of ['/v1/stats', '/v1/openapi.json', '/v1/docs', '/metrics', '/healthz', '/readyz']) {
    assert.equal((await outside.request('GET', path)).status, 404, `expected 404 to ${path} on the public listener`);
  }
  for (const path of ['/v1/stats', '/metrics', '/healthz', '/readyz']) {
    assert.equal((await door.api.request('GET', path)).status, 200, `expected 200 to ${path} on the internal listener`);
  }
  assert.equal((await door.api.request('GET', '/v1/stats', { key: null })).status, 401, 'expected the API to ask for a key on the internal listener too');
  assert.equal((await door.api.request('GET', '/metrics', { key: null })).status, 200, 'expected /metrics to ask for no key on the internal listener');
  assert.equal((await door.api.request('GET', '/socket.io/?EIO=4&transport=polling', { key: null })).status, 404, 'expected no sockets on the internal listener');
  const user = someone();
  const client = await connected(door, { user });
  assert.deepEqual(await door.api.send(user, 'x', 1), { connections: 1, nodes: 1, unconfirmed: 0 });
  await client.wait('x');
});

test('no secret is shown by ps: there is no flag for it', async () => {
  const { code, stdout } = await runBinary(['serve', '--help']);
  assert.equal(code, 0);
  assert.doesNotMatch(stdout, /--(jwt-)?secret|--api-key/, 'expected no flag for a secret');
  for (const flag of ['--listen', '--redis-url', '--node-id', '--config', '--internal-listen']) assert.ok(stdout.includes(flag), `expected ${flag} in the help`);
});
