// Runs the official protocol suites as they are published, but for the address, against the examples that echo. Every miss has to be
// among those that are expected, and each of these has to miss.
//
//   node run.mjs CHECKOUT [ROUNDS]
//
// CHECKOUT is of github.com/socketio/socket.io, or a directory with checkouts of socketio/engine.io-protocol and
// socketio/socket.io-protocol. The examples are those of target/debug.

import { spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const SUITES = [
  {
    name: 'Engine.IO 4',
    places: ['docs/engine.io-protocol/v4-test-suite', 'engine.io-protocol/test-suite'],
    example: 'engine_echo',
    least: 25,
    expected: {},
  },
  {
    name: 'Socket.IO 5',
    places: ['docs/socket.io-protocol/v5-test-suite', 'socket.io-protocol/test-suite'],
    example: 'echo',
    least: 31,
    expected: {
      'Socket.IO protocol connect should disallow connection to an unknown namespace': 'it expects a CONNECT_ERROR of a message alone; ours has the code beside it, as contract 2 says',
    },
  },
];

const root = fileURLToPath(new URL('../..', import.meta.url));
const [checkout, rounds = '1'] = process.argv.slice(2);
const scratch = mkdtempSync(path.join(os.tmpdir(), 'switchboard-suites-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));

function fail(why) {
  console.error(`tests/suites: ${why}`);
  process.exit(1);
}

/** The suite, with its packages, where it may be written to. */
function prepare({ name, places }) {
  const place = places.map((one) => path.join(checkout, one)).find((one) => existsSync(path.join(one, 'test-suite.js')));
  if (!place) fail(`${checkout} has no suite of ${name}: expected ${places.join(' or ')}`);
  const directory = path.join(scratch, path.basename(path.dirname(place)));
  cpSync(place, directory, { recursive: true });
  if (!existsSync(path.join(directory, 'node_modules'))) {
    const { status, stderr } = spawnSync('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], { cwd: directory, encoding: 'utf8' });
    if (status !== 0) fail(`npm ci in ${place}: ${stderr}`);
  }
  return directory;
}

/** An example on a free port. Resolves to its process and address. */
async function start(example) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith('SWITCHBOARD_')));
  const child = spawn(path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'debug/examples', example), {
    env: { ...env, SWITCHBOARD_LISTEN: '127.0.0.1:0', SWITCHBOARD_JWT_SECRET: 'a-secret-of-the-suites-that-is-long-enough-0123456789' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  process.on('exit', () => child.kill('SIGKILL'));
  for await (const line of createInterface({ input: child.stdout })) {
    const said = /listening on (http:\S+)/.exec(line);
    if (said) return { child, url: said[1] };
  }
  return fail(`${example} ended`);
}

/** What mocha says of the suite, or of those of its tests that the arguments name. */
function mocha(directory, url, ...args) {
  const text = readFileSync(path.join(directory, 'test-suite.js'), 'utf8');
  const address = 'http://localhost:3000';
  if (!text.includes(address)) fail(`${directory}/test-suite.js names no ${address}`);
  writeFileSync(path.join(directory, 'here.js'), text.replace(address, url));
  const { stdout, stderr } = spawnSync('npx', ['mocha', '--exit', '--reporter', 'json', ...args, 'here.js'], { cwd: directory, encoding: 'utf8', timeout: 60000 });
  try {
    return JSON.parse(stdout.slice(stdout.indexOf('{\n')));
  } catch {
    return fail(`mocha said no JSON: ${stdout}${stderr}`);
  }
}

let wrong = 0;
for (const suite of SUITES) {
  const directory = prepare(suite);
  const { child, url } = await start(suite.example);
  for (let round = 1; round <= Number(rounds); round += 1) {
    const { stats, passes, failures } = mocha(directory, url);
    console.log(`${suite.name}: ${stats.passes} of ${stats.tests}, round ${round}, ${stats.duration} ms`);
    for (const { fullTitle, err } of failures) {
      const why = suite.expected[fullTitle];
      if (why) {
        console.log(`  expected  ${fullTitle}: ${why}`);
        continue;
      }
      // Some let two connections race, 5 ms apart: once more, alone, as tests/run does.
      const again = mocha(directory, url, '--fgrep', fullTitle);
      const missed = again.stats.failures > 0;
      console.log(`  ${missed ? 'MISSED   ' : 'FLAKY    '} ${fullTitle}: ${err.message ?? err}`);
      if (missed) wrong += 1;
    }
    for (const { fullTitle } of passes.filter(({ fullTitle }) => fullTitle in suite.expected)) {
      console.log(`  PASSED    ${fullTitle}: take it off the list of those that are expected to miss`);
      wrong += 1;
    }
    if (stats.tests < suite.least) {
      console.log(`  TOO FEW   expected ${suite.least} tests at least`);
      wrong += 1;
    }
  }
  child.kill('SIGKILL');
}
process.exit(wrong === 0 ? 0 : 1);
