// Real processes: the binary under test and redis-server. Whatever is started here is gone when the test file ends.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import jwt from 'jsonwebtoken';
import { Api } from './api.mjs';
import { eventually, within } from './wait.mjs';

export const JWT_SECRET = 'a-secret-of-the-tests-that-is-long-enough-0123456789';
export const API_KEY = 'api-key-of-the-tests-0123456789abcdef';

/** The binary under test. */
export const BINARY = process.env.SWITCHBOARD_BIN
  ? path.resolve(process.env.SWITCHBOARD_BIN)
  : fileURLToPath(new URL('../../../target/debug/switchboard', import.meta.url));

/** The server under test: redis-server, or what takes its place. */
const REDIS_SERVER = process.env.SWITCHBOARD_TEST_REDIS_SERVER ?? 'redis-server';

const scratch = mkdtempSync(path.join(os.tmpdir(), 'switchboard-tests-'));
const running = new Set();

process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
  rmSync(scratch, { recursive: true, force: true });
});
for (const [signal, number] of [['SIGINT', 2], ['SIGTERM', 15], ['SIGHUP', 1]]) {
  process.on(signal, () => process.exit(128 + number));
}

/** The environment of this process without anything that would configure a node. */
function plainEnvironment() {
  return Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith('SWITCHBOARD_') && key !== 'RUST_LOG'));
}

let files = 0;
/** Writes a file that lives as long as the test file runs, and returns its path. */
export function writeScratch(extension, text) {
  const file = path.join(scratch, `${(files += 1)}.${extension}`);
  writeFileSync(file, text);
  return file;
}

/** A child process with its output kept, line by line. */
export class Running {
  constructor(command, args, { env = {}, name = path.basename(command), stdin = 'ignore' } = {}) {
    this.name = name;
    this.lines = [];
    this.stdout = '';
    this.stderr = '';
    this.watchers = new Set();
    this.child = spawn(command, args, { env: { ...plainEnvironment(), ...env }, stdio: [stdin, 'pipe', 'pipe'] });
    running.add(this.child);
    for (const stream of ['stdout', 'stderr']) {
      let rest = '';
      this.child[stream].setEncoding('utf8').on('data', (text) => {
        this[stream] += text;
        const parts = (rest + text).split('\n');
        rest = parts.pop();
        this.take(parts);
      });
      this.child[stream].on('close', () => rest && this.take([rest]));
    }
    this.exited = new Promise((resolve) => {
      this.child.on('error', (error) => this.done(resolve, { code: null, signal: null, error }));
      this.child.on('close', (code, signal) => this.done(resolve, { code, signal }));
    });
  }

  take(lines) {
    this.lines.push(...lines.map((line) => line.replace(/\x1b\[[0-9;]*m/g, '')));
    for (const look of this.watchers) look();
  }

  done(resolve, how) {
    running.delete(this.child);
    this.ended = how;
    for (const look of this.watchers) look();
    resolve(how);
  }

  get pid() {
    return this.child.pid;
  }

  get log() {
    return this.lines.join('\n');
  }

  /** Resolves to the match of the first line of output that matches; fails at once if the process ends before. */
  line(pattern, { ms = 20000 } = {}) {
    const found = new Promise((resolve, reject) => {
      const look = () => {
        for (const line of this.lines) {
          const match = pattern.exec(line);
          if (match) {
            this.watchers.delete(look);
            return resolve(match);
          }
        }
        if (this.ended) {
          this.watchers.delete(look);
          reject(new Error(`expected ${this.name} to print a line like ${pattern}, but it ended: ${this.epitaph()}`));
        }
      };
      this.watchers.add(look);
      look();
    });
    return within(ms, `${this.name} prints a line like ${pattern}`, found).catch((error) => {
      throw this.ended ? error : new Error(`${error.message}\n--- output of ${this.name} ---\n${this.log}`);
    });
  }

  epitaph() {
    const { code, signal, error } = this.ended;
    return `${error ? error.message : `exit code ${code}, signal ${signal}`}\n--- output of ${this.name} ---\n${this.log}`;
  }

  signal(name) {
    this.child.kill(name);
  }

  /** Resolves to `{code, signal}` once the process has ended. */
  end({ ms = 20000 } = {}) {
    return within(ms, `${this.name} (pid ${this.pid}) ends`, this.exited);
  }

  /** Ends it without ceremony, as the cleanup after a test. */
  async kill() {
    if (!this.ended) this.child.kill('SIGKILL');
    await this.exited;
  }
}

/** Runs the binary with `args` to its end and resolves to `{code, stdout, stderr, output}`. */
export async function runBinary(args, { env = {}, ms = 20000 } = {}) {
  needBinary();
  const run = new Running(BINARY, args, { env, name: `switchboard ${args.join(' ')}` });
  try {
    const { code, signal, error } = await run.end({ ms });
    assert.ok(!error, `expected ${BINARY} to start: ${error?.message}`);
    assert.equal(signal, null, `expected ${run.name} to exit by itself, not by ${signal}\n${run.log}`);
    return { code, stdout: run.stdout, stderr: run.stderr, output: run.log };
  } finally {
    await run.kill();
  }
}

function needBinary() {
  if (!existsSync(BINARY)) {
    throw new Error(`no binary at ${BINARY}: build it with "cargo build", or name one with SWITCHBOARD_BIN`);
  }
}

const BOUND = /(?<!internal )\blistening on https?:\/\/(\S+:\d+)/;
const BOUND_INTERNAL = /internal listener on https?:\/\/(\S+:\d+)/;

/** Nodes that run now, so that a failing test can show what they said. */
export const nodes = new Set();

/** A running node. `url` is where clients connect, `api` speaks to its HTTP API with the key that has every scope. */
export class Node extends Running {
  /**
   * Starts a node and waits until it is ready.
   * `redis` is what startRedis() gave (none: embedded registry), `env` and `args` are added to its configuration,
   * `config` is the text of a TOML file for it. With `bare`, it is given neither secret nor key. `files` is how many
   * descriptors it may have (needs prlimit), `listen` where clients connect.
   */
  static async start({ redis, name, env = {}, args = [], config, bare = false, internal = false, files, listen = '127.0.0.1:0' } = {}) {
    needBinary();
    const settings = bare ? {} : { SWITCHBOARD_JWT_SECRET: JWT_SECRET, SWITCHBOARD_API_KEY: API_KEY };
    const line = ['serve', '--listen', listen, ...args];
    if (redis) line.push('--redis-url', redis.url);
    if (name) line.push('--node-id', name);
    const configFile = config && writeScratch('toml', config);
    if (config) line.push('--config', configFile);
    if (internal) line.push('--internal-listen', '127.0.0.1:0');
    const [command, ...before] = files ? ['prlimit', `--nofile=${files}`, BINARY] : [BINARY];
    const node = new Node(command, [...before, ...line], { env: { ...settings, ...env }, name: name ?? 'switchboard' });
    node.configFile = configFile;
    nodes.add(node);
    try {
      const [, address] = await node.line(BOUND);
      node.url = `http://${address}`;
      node.internalUrl = internal ? `http://${(await node.line(BOUND_INTERNAL))[1]}` : node.url;
      node.api = new Api(node.internalUrl, bare ? undefined : API_KEY);
      await eventually(`${node.name} answers 200 to GET /readyz`, async () => {
        assert.ok(!node.ended, `it ended: ${node.ended && node.epitaph()}`);
        const { status, text } = await node.api.request('GET', '/readyz', { key: null });
        assert.equal(status, 200, `status ${status}: ${text}`);
      }, { ms: 20000 });
    } catch (error) {
      await node.kill();
      throw error;
    }
    return node;
  }

  get port() {
    return Number(new URL(this.url).port);
  }

  /** Writes its configuration file anew and tells it so. Whether it has taken it is for the test to await. */
  reload(config) {
    if (config !== undefined) writeFileSync(this.configFile, config);
    this.signal('SIGHUP');
  }

  async kill() {
    await super.kill();
    nodes.delete(this);
  }
}

export const startNode = (options) => Node.start(options);

/** A port of the loopback that was free a moment ago. */
export async function freePort() {
  const server = net.createServer();
  await new Promise((resolve, reject) => server.on('error', reject).listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A real redis-server that keeps nothing on disk, or with `keeps` every write. `stop()` and `start()` make an outage on the same port. */
export class Redis {
  constructor({ keeps = false } = {}) {
    this.folder = keeps ? mkdtempSync(path.join(scratch, 'redis-')) : undefined;
  }

  async start() {
    for (let attempt = 1; ; attempt += 1) {
      const port = this.port ?? (await freePort());
      const kept = this.folder ? ['--appendonly', 'yes', '--appendfsync', 'always', '--dir', this.folder] : ['--appendonly', 'no', '--dir', scratch];
      const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', ...kept];
      this.server = new Running(REDIS_SERVER, args, { name: 'redis-server' });
      try {
        await this.server.line(/Ready to accept connections/i);
        this.port = port;
        return this;
      } catch (error) {
        await this.server.kill();
        // Somebody else may have taken the port between the look and the bind.
        if (attempt === 5 || this.server.ended?.error) {
          throw new Error(`expected redis-server to start (is it installed?): ${error.message}`);
        }
      }
    }
  }

  get url() {
    return `redis://127.0.0.1:${this.port}/0`;
  }

  stop() {
    return this.server.kill();
  }

  /** One command, as words; resolves to the raw reply. For looking on, not for the nodes' own work. */
  command(...words) {
    const request = `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`;
    const reply = new Promise((resolve, reject) => {
      const socket = net.connect(this.port, '127.0.0.1', () => socket.end(request));
      let text = '';
      socket.setEncoding('utf8').on('data', (part) => (text += part)).on('error', reject).on('end', () => resolve(text));
    });
    return within(5000, `redis-server answers ${words[0]}`, reply);
  }

  /** All that it holds, keys and values, as one text to look for something in. */
  async everything() {
    const lines = (text) => text.split('\r\n').filter((line, i, all) => line && /^\$\d/.test(all[i - 1] ?? ''));
    const readers = { string: ['GET'], hash: ['HGETALL'], set: ['SMEMBERS'], zset: ['ZRANGE', 0, -1], list: ['LRANGE', 0, -1] };
    const held = [];
    for (const key of lines(await this.command('KEYS', '*'))) {
      const kind = (await this.command('TYPE', key)).trim().slice(1);
      const [verb, ...rest] = readers[kind] ?? ['DUMP'];
      held.push(key, await this.command(verb, key, ...rest.map(String)));
    }
    return held.join('\n');
  }
}

export const startRedis = (options) => new Redis(options).start();

/** Seconds since 1970, `seconds` from now: a NumericDate as tokens have them. */
export const soon = (seconds) => Math.floor(Date.now() / 1000) + seconds;

/** A token as a login service would sign it, good for 15 minutes unless `claims` say otherwise. */
export function token(user, claims = {}, { secret = JWT_SECRET, algorithm = 'HS256', ...options } = {}) {
  const now = Math.floor(Date.now() / 1000);
  return jwt.sign({ sub: user, iat: now, exp: now + 900, ...claims }, secret, { algorithm, ...options });
}
