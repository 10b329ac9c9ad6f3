// The backend of examples/app, as its README runs it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { exchange } from './api.mjs';
import { API_KEY, freePort, JWT_SECRET } from './process.mjs';
import { eventually } from './wait.mjs';

const APP = fileURLToPath(new URL('../../../examples/app', import.meta.url));
const MODULES = fileURLToPath(new URL('../node_modules', import.meta.url));

/** The backend of examples/app beside a node that calls it: `file` run by `command`. */
export async function startExample({ node, owned }, command = process.execPath, file = 'server.mjs') {
  const home = mkdtempSync(join(tmpdir(), 'switchboard-example-'));
  owned(() => rmSync(home, { recursive: true }));
  cpSync(APP, home, { recursive: true, filter: (path) => !path.includes('node_modules') });
  symlinkSync(MODULES, join(home, 'node_modules'));
  const port = await freePort();
  const secret = `whsec_${randomBytes(32).toString('base64')}`;
  const backend = { name: 'chat', url: `http://127.0.0.1:${port}/switchboard`, events: ['chat:*'], secret };
  const base = `http://127.0.0.1:${port}`;
  const door = await node({ env: {
    SWITCHBOARD_BACKENDS: JSON.stringify([backend]),
    SWITCHBOARD_PRESENCE__WATCH: 'claim',
    SWITCHBOARD_PRESENCE__OFFLINE_DELAY: '300ms',
    SWITCHBOARD_CORS__ALLOWED_ORIGINS: base,
    SWITCHBOARD_TRANSPORT__CLIENT_BUNDLE: join(MODULES, 'socket.io-client/dist'),
  } });
  const app = spawn(command, [join(home, file)], {
    env: { PATH: process.env.PATH, PORT: String(port), SWITCHBOARD_URL: door.url, SWITCHBOARD_API_KEY: API_KEY, SWITCHBOARD_JWT_SECRET: JWT_SECRET, WEBHOOK_SECRET: secret },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  owned(() => app.kill('SIGKILL'));
  await eventually('the backend serves its page', async () => assert.equal((await exchange(base, 'GET', '/')).status, 200), { ms: 15000 });
  const post = async (path, body, headers = {}) => {
    const answer = await exchange(base, 'POST', path, { headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) });
    return { status: answer.status, json: answer.text.startsWith('{') ? JSON.parse(answer.text) : undefined };
  };
  return { door, base, post };
}
