// Contract 11: connections to a backend behind TLS are kept, and HTTP/2 is spoken where the backend does. Needs openssl.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, connected, eventually, someone, test } from './harness.mjs';
import { calling, startBackend } from './support/backend.mjs';

const CLIENTS = 5;

let folder;
let tls;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'switchboard-tls-'));
  const openssl = (line) => execFileSync('openssl', line.split(' '), { cwd: folder, stdio: 'pipe' });
  const key = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes';
  writeFileSync(join(folder, 'names'), 'subjectAltName=IP:127.0.0.1\n');
  openssl(`req -x509 ${key} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca`);
  openssl(`req ${key} -keyout key -out request -subj /CN=backend`);
  openssl('x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert');
  tls = { key: readFileSync(join(folder, 'key')), cert: readFileSync(join(folder, 'cert')) };
});
after(() => rmSync(folder, { recursive: true }));

/** A backend behind TLS, and clients of a node that calls it and trusts its certificate. */
async function scene({ node, owned }, options) {
  const backend = await startBackend({ tls: { ...tls, ...options } });
  owned(() => backend.stop());
  const env = { ...calling({ url: backend.url, events: ['*'] }), SSL_CERT_FILE: join(folder, 'ca.pem'), SSL_CERT_DIR: folder };
  const door = await node({ env });
  const clients = [];
  for (let n = 0; n < CLIENTS; n += 1) clients.push(await connected(door, { user: someone('caller') }));
  return { backend, clients };
}

/** Has all clients call at once: no call is answered before all are there. */
async function allAtOnce(backend, clients) {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  const before = backend.of('together').length;
  backend.on('together', () => opened.then(() => ({ ack: 'held' })));
  const answers = clients.map((client) => client.ask('together'));
  await eventually('all calls are there at once', () => backend.of('together').length === before + clients.length);
  open();
  assert.deepEqual(await Promise.all(answers), clients.map(() => 'held'));
}

const versions = (backend) => [...new Set(backend.calls.map(({ httpVersion }) => httpVersion))];

test('a backend that speaks HTTP/2 gets all calls, at once too, over one connection', async (t) => {
  const { backend, clients } = await scene(t, { http2: true });
  backend.on('alone', ({ args }) => ({ ack: args[0] }));
  for (let n = 0; n < 3; n += 1) assert.equal(await clients[0].ask('alone', n), n);
  for (let n = 0; n < 3; n += 1) await allAtOnce(backend, clients);
  assert.deepEqual([versions(backend), backend.connections, backend.wrong], [['2.0'], 1, []]);
});

test('a backend that speaks HTTP/1.1 alone has a connection for each call under way, and they are used again', async (t) => {
  const { backend, clients } = await scene(t);
  for (let n = 0; n < 6; n += 1) await allAtOnce(backend, clients);
  assert.deepEqual([versions(backend), backend.wrong], [['1.1'], []]);
  // Not as many as clients exactly: a call that begins before the connection of one just answered is free again may open its own.
  const { connections, calls } = backend;
  assert.ok(connections >= CLIENTS && connections < calls.length / 2, `expected connections to be used again, got ${connections} for ${calls.length} calls`);
});
