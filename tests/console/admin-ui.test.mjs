// Contract 16: the published page of @socket.io/admin-ui, as it is, against two nodes.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before, connected, eventually, someone, test } from '../js/harness.mjs';
import { launch, picture } from './browser.mjs';

const PAGE = fileURLToPath(new URL('node_modules/@socket.io/admin-ui/ui/dist', import.meta.url));
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css' };
/** bcrypt of "correct horse". */
const HASH = '$2b$04$zGvCl1/v9qKDq3P2xNfCDe0kqHYhLDcG5XHbI.BsPGroZcC0Avn5S';

let browser;
let files;
before(async () => {
  browser = await launch();
  files = http.createServer(async (request, response) => {
    const file = path.join(PAGE, request.url === '/' ? 'index.html' : path.normalize(request.url));
    const body = await readFile(file).catch(() => undefined);
    response.writeHead(body ? 200 : 404, { 'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream' });
    response.end(body);
  });
  await new Promise((resolve) => files.listen(0, '127.0.0.1', resolve));
}, { timeout: 60000 });
after(async () => {
  await browser?.close();
  files?.close();
});

test('the page logs in, shows both servers and their sockets, and kicks a client', async ({ node, redis }) => {
  const origin = `http://127.0.0.1:${files.address().port}`;
  const config = `[cors]\nallowed_origins = ["${origin}"]\n[admin_ui]\nusername = "ops"\npassword_hash = "${HASH}"\n`;
  const shared = await redis();
  const [one, two] = await Promise.all(['gateway-1', 'gateway-2'].map((name) => node({ redis: shared, name, config })));
  const [first, second] = await Promise.all([one, two].map((door) => connected(door, { user: someone() })));

  const page = await (await browser.newContext({ viewport: { width: 1400, height: 800 } })).newPage();
  page.setDefaultTimeout(20000);
  const failed = [];
  page.on('pageerror', (error) => failed.push(error.message));
  // It asks other hosts for fonts and icons.
  await page.route((url) => url.hostname !== '127.0.0.1', (route) => route.abort());
  await page.goto(origin);
  const log = async (password) => {
    await page.getByLabel('Server URL').fill(one.url);
    await page.getByLabel('Username').fill('ops');
    await page.getByLabel('Password').fill(password);
    await page.getByRole('button', { name: 'Connect', exact: true }).click();
  };
  await page.locator('.v-input--switch', { hasText: 'Advanced options' }).click();
  await page.getByLabel('Admin namespace').fill('/ui');
  await log('wrong');
  await page.getByText('Invalid credentials').waitFor();
  await log('correct horse');
  await page.getByLabel('Server URL').waitFor({ state: 'hidden' });

  const menu = page.getByRole('navigation');
  await menu.getByRole('link', { name: 'Servers' }).click();
  for (const door of [one, two]) await page.getByRole('cell', { name: door.name, exact: true }).waitFor();
  await picture(page, 'admin-ui-servers');
  await menu.getByRole('link', { name: 'Sockets' }).click();
  for (const client of [first, second]) await page.getByRole('cell', { name: client.id, exact: true }).waitFor();
  await picture(page, 'admin-ui-sockets');

  // By its session: no password is asked for again.
  await page.reload();
  await page.getByRole('row', { name: second.id }).getByRole('button').click();
  await second.kicked(4500);
  // The click on the button is one on its row too, which opens the connection.
  await page.getByText('disconnected', { exact: true }).first().waitFor();
  await menu.getByRole('link', { name: 'Sockets' }).click();
  await page.getByRole('cell', { name: second.id, exact: true }).waitFor({ state: 'detached' });
  await page.getByRole('cell', { name: first.id, exact: true }).waitFor();
  const late = await connected(two, { user: someone() });
  await page.getByRole('cell', { name: late.id, exact: true }).click();
  await page.getByText('"nodeId": "gateway-2"').waitFor();
  await eventually('nothing is wrong on the page', () => assert.deepEqual(failed, []));
  await page.context().close();
});
