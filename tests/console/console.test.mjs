// Contract 16: the console in a real browser. Pictures of its views are left in target/console; two of them stand in docs/images.

import assert from 'node:assert/strict';
import { API_KEY, after, before, connected, connect, describe, eventually, someone, startNode, startRedis, test } from '../js/harness.mjs';
import { startExample } from '../js/support/example.mjs';
import { launch, open, picture } from './browser.mjs';

let browser;
before(async () => { browser = await launch(); }, { timeout: 60000 });
after(() => browser?.close());

const scoped = (...scopes) => `[[api.keys]]\nname = "console"\nkey = "console-key-0123456789"\nscopes = ${JSON.stringify(scopes)}\n`;

/** Signs a page in at a node. */
async function signedIn(page, node, key = API_KEY) {
  await page.goto(`${node.internalUrl}/console`);
  await page.getByLabel('API key').fill(key);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('link', { name: 'Overview' }).waitFor();
}

const notice = (page, text) => page.locator('#notices').getByText(text).waitFor();

test('the two minutes of development mode: open, connect as alice, send to her, kick her', async ({ node }) => {
  const door = await node({ bare: true, name: 'gateway-1' });
  const page = await open(browser, { colorScheme: 'dark' });
  await page.goto(`${door.url}/`);
  await page.getByRole('button', { name: 'Connect as alice' }).click();
  const alice = page.getByRole('region', { name: 'Test client alice' });
  await alice.getByText('connected', { exact: true }).waitFor();
  await alice.getByRole('button', { name: 'Send' }).click();
  await notice(page, 'Handed to 1 connection on 1 node.');
  await alice.getByText('hello {"from":"console"}').waitFor();
  await alice.getByRole('button', { name: 'Emit' }).click();
  await alice.getByText(/^devices: \{.*"ok":true/).waitFor();
  await alice.getByRole('button', { name: 'Kick alice' }).click();
  await alice.getByText('disconnected by the server').waitFor();
  await alice.getByText('forceDisconnect {"code":4500').waitFor();
  await notice(page, '1 connection ended on 1 node.');
  await picture(page, 'playground');
  page.held();
  await page.context().close();
});

test('a key is asked for, kept in the tab alone, and gone after the sign-out', async ({ node }) => {
  const door = await node();
  const page = await open(browser, { expected: [401] });
  await page.goto(`${door.url}/console`);
  await page.getByLabel('API key').fill('not-a-key');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByText('No such key.').waitFor();
  await picture(page, 'sign-in');
  await signedIn(page, door);
  await page.reload();
  await page.getByRole('button', { name: 'Sign out' }).click();
  assert.deepEqual(await page.evaluate(() => [Object.keys(sessionStorage), Object.keys(localStorage), document.cookie]), [[], [], '']);
  await page.reload();
  await page.getByLabel('API key').waitFor();
  page.held();
  await page.context().close();
});

test('a key that may only read looks on, and everything else is switched off with the reason', async ({ node }) => {
  const door = await node({ config: scoped('read') });
  const user = someone();
  await connected(door, { user });
  const page = await open(browser);
  await signedIn(page, door, 'console-key-0123456789');
  await page.goto(`${door.url}/console#/users/${user}`);
  await page.getByRole('row', { name: /websocket/ }).waitFor();
  for (const [name, scope] of [['Send', 'send'], ['Disconnect', 'disconnect'], ['Ban', 'disconnect']]) {
    const button = page.getByRole('button', { name, exact: true });
    assert.ok(await button.isDisabled(), `expected ${name} to be off`);
    assert.equal(await button.getAttribute('title'), `This key lacks the scope "${scope}"`);
  }
  page.held();
  await page.context().close();
});

test('a key that may not read says so in each view, and can still send', async ({ node }) => {
  const door = await node({ config: scoped('send') });
  const user = someone();
  const client = await connected(door, { user });
  const page = await open(browser);
  await signedIn(page, door, 'console-key-0123456789');
  for (const view of ['', 'users', 'rooms', 'tail', `users/${user}`]) {
    await page.goto(`${door.url}/console#/${view}`);
    await page.getByText('This key lacks the scope "read"').waitFor();
  }
  await page.getByRole('button', { name: 'Send' }).click();
  await client.wait('hello');
  page.held();
  await page.context().close();
});

test('a user is found, sent to, disconnected, banned and let in again', async ({ node }) => {
  const door = await node();
  const user = someone();
  const [phone, laptop] = [await connected(door, { user, deviceId: 'phone' }), await connected(door, { user, deviceId: 'laptop' })];
  const page = await open(browser);
  await signedIn(page, door);
  await page.getByRole('link', { name: 'Users' }).click();
  await page.getByRole('link', { name: user }).click();
  await page.getByText('2 devices').waitFor();
  await page.getByLabel('Data').fill('{"n": 1}');
  await page.getByRole('button', { name: 'Send' }).click();
  await notice(page, 'Handed to 2 connections on 1 node.');
  assert.deepEqual(await phone.wait('hello'), [{ n: 1 }]);
  await picture(page, 'user');

  await page.getByRole('button', { name: `Disconnect ${phone.id}` }).click();
  await phone.kicked(4500);
  await page.getByRole('button', { name: 'Ban', exact: true }).click();
  await page.getByLabel('Reason').fill('Spam');
  await picture(page, 'dialog');
  await page.keyboard.press('Enter');
  await laptop.kicked(4501, 'Spam');
  await page.getByText('banned', { exact: true }).waitFor();
  await connect(door, { user }).refused('User banned');
  await page.getByRole('button', { name: 'Unban' }).click();
  await notice(page, 'The ban is lifted.');
  const back = await connected(door, { user });
  await page.getByRole('button', { name: 'Disconnect', exact: true }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Disconnect' }).click();
  await back.kicked(4500);
  page.held();
  await page.context().close();
});

test('all of it can be reached by the keyboard', async ({ node }) => {
  const door = await node();
  const user = someone();
  const client = await connected(door, { user });
  const page = await open(browser);
  await page.goto(`${door.url}/console`);
  await page.getByLabel('API key').waitFor();
  await page.keyboard.type(API_KEY);
  await page.keyboard.press('Enter');
  /** Presses Tab until something with this name has the focus, and shows it. */
  const tabTo = async (name) => {
    const focused = () => page.evaluate(() => [document.activeElement.getAttribute('aria-label') || document.activeElement.textContent, getComputedStyle(document.activeElement).outlineStyle]);
    for (let n = 0; n < 40; n += 1) {
      await page.keyboard.press('Tab');
      const [text, outline] = await focused();
      if (text.trim() !== name) continue;
      assert.notEqual(outline, 'none', `expected the focus on ${name} to be seen`);
      return;
    }
    assert.fail(`40 times Tab did not lead to ${name}`);
  };
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  await tabTo('Users');
  await page.keyboard.press('Enter');
  await page.getByRole('link', { name: user }).waitFor();
  await tabTo(user);
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: `Disconnect ${client.id}` }).waitFor();
  await tabTo('Ban');
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.press('Escape');
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Ban', 'expected the focus to come back from the dialog');
  await tabTo(`Disconnect ${client.id}`);
  await page.keyboard.press('Enter');
  await client.kicked(4500);
  page.held();
  await page.context().close();
});

test('what users call themselves is text, wherever it is shown', async ({ node }) => {
  const door = await node();
  const user = '<img src=x onerror=alert(1)>/..?#';
  const page = await open(browser);
  await signedIn(page, door);
  await page.getByRole('link', { name: 'Tail' }).click();
  await page.getByText('of the node').waitFor();
  const client = await connected(door, { user, deviceId: '<script>alert(2)</script>' });
  await client.ask('<b>event</b>', 1);
  await page.getByText('<b>event</b>').waitFor();
  await page.getByRole('link', { name: 'Users' }).click();
  await page.getByRole('region', { name: 'Users online' }).getByRole('link', { name: user }).click();
  await page.getByRole('heading', { name: user }).waitFor();
  await page.getByText('<script>alert(2)</script>').waitFor();
  page.held();
  await page.context().close();
});

test('rooms with members are listed, and told apart by how their names begin', async ({ node }) => {
  const door = await node();
  const user = someone();
  await connected(door, { user });
  for (const room of ['chat:7', 'game:1']) await door.api.ok('PUT', `/v1/users/${user}/rooms/${room}`, {});
  const page = await open(browser);
  await signedIn(page, door);
  await page.getByRole('link', { name: 'Rooms' }).click();
  await page.getByRole('row', { name: 'game:1 / 1' }).waitFor();
  await page.getByLabel('Begins with').fill('chat:');
  await page.getByRole('button', { name: 'Filter' }).click();
  await page.getByRole('cell', { name: 'game:1' }).waitFor({ state: 'detached' });
  assert.ok(await page.getByRole('row', { name: 'chat:7 / 1' }).isVisible());
  await page.goto(`${door.url}/console#/users/${user}`);
  await page.getByRole('cell', { name: 'chat:7, game:1' }).waitFor();
  page.held();
  await page.context().close();
});

test('a node that goes away is told of, and the page goes on when it is back', async ({ node }) => {
  const door = await node({ name: 'first' });
  const page = await open(browser, { expected: [] });
  await signedIn(page, door);
  await page.getByRole('cell', { name: 'first' }).waitFor();
  await door.kill();
  await page.getByText('The node does not answer. Trying again.').waitFor();
  const again = await node({ name: 'second', listen: `127.0.0.1:${door.port}` });
  assert.equal(again.url, door.url);
  await page.getByRole('cell', { name: 'second' }).waitFor();
  await eventually('the trouble is over', async () => assert.ok(await page.getByRole('alert').isHidden()));
  await page.context().close();
});

describe('a fleet', () => {
  let redis;
  let nodes = [];
  before(async () => {
    redis = await startRedis();
    nodes = await Promise.all(['gateway-1', 'gateway-2', 'gateway-3'].map((name) => startNode({ redis, name })));
  });
  after(async () => {
    await Promise.all(nodes.map((node) => node.kill()));
    await redis?.stop();
  });

  test('the counters draw what comes and goes on all nodes', async () => {
    const page = await open(browser);
    // The page's time runs ahead of ours, from minutes ago until now.
    const [step, steps] = [2000, 50];
    await page.clock.install({ time: Date.now() - step * steps });
    await signedIn(page, nodes[0]);
    await page.getByRole('cell', { name: 'gateway-3' }).waitFor();
    const there = [];
    const wanted = (n) => Math.round(14 + 10 * Math.sin(n / 7) + 5 * Math.sin(n / 2.3) + n / 8);
    for (let n = 0; n < steps; n += 1) {
      while (there.length < wanted(n)) there.push(await connected(nodes[there.length % 3], { user: `user-${there.length % 27}`, label: 'one of the crowd' }));
      for (const one of there.splice(Math.max(wanted(n), 1))) one.socket.disconnect();
      const counted = page.waitForResponse((response) => response.url().endsWith('/v1/nodes'));
      await page.clock.runFor(step);
      await counted;
    }
    const shown = () => page.getByRole('region', { name: 'Connections' }).locator('strong').textContent();
    await eventually('the page counts them all', async () => {
      await page.clock.runFor(100);
      assert.equal(await shown(), String(there.length));
    });
    assert.match(await page.getByRole('img', { name: /^Connections: / }).getAttribute('aria-label'), /\d+ now, \d+ at the most/);
    await page.setViewportSize({ width: 1200, height: 470 });
    await picture(page, 'overview');
    page.held();
    await page.context().close();
  });

  test('the tail shows the events of the node that answers', async () => {
    const page = await open(browser, { colorScheme: 'dark' });
    await signedIn(page, nodes[1]);
    await page.getByRole('link', { name: 'Tail' }).click();
    await page.getByText('of the node gateway-2 alone').waitFor();
    const user = someone();
    const client = await connected(nodes[1], { user });
    await nodes[0].api.send(user, 'hello', { secret: 1 });
    await client.ask('chat', 'nobody takes it');
    await nodes[2].api.disconnect(user);
    for (const what of ['connected', 'hello, 17 B, user, handed to 1 connection', 'chat, ', 'disconnected, after']) {
      await page.getByRole('cell', { name: what }).first().waitFor();
    }
    await picture(page, 'tail');
    await page.getByLabel('Show only rows with').fill('hello');
    assert.equal(await page.getByRole('row').count(), 2, 'expected the head and the one row');
    page.held();
    await page.context().close();
  });
});

test('the chat of examples/app: two people talk, see each other, and one kicks the other', async (t) => {
  const { base } = await startExample(t);
  const [alice, bob] = await Promise.all(['alice', 'bob'].map(async (name) => {
    const page = await browser.newPage({ viewport: { width: 640, height: 470 } });
    page.setDefaultTimeout(15000);
    await page.goto(base);
    await page.getByLabel('Who are you?').selectOption(name);
    await page.getByRole('button', { name: 'Log in' }).click();
    await page.getByText(`You are ${name}.`).waitFor();
    return page;
  }));
  await alice.locator('#friend-bob.online').waitFor();
  await bob.locator('#friend-alice.online').waitFor();
  await alice.getByLabel('Message').fill('Hello <b>Bob</b>, lunch?');
  await bob.getByText('alice is typing…').waitFor();
  await alice.getByRole('button', { name: 'Say' }).click();
  await bob.getByText('alice: Hello <b>Bob</b>, lunch?').waitFor();
  await bob.getByLabel('Message').fill('At noon.');
  await bob.getByRole('button', { name: 'Say' }).click();
  await alice.getByText('bob: At noon.').waitFor();
  await alice.screenshot({ path: `${process.env.CONSOLE_PICTURES}/chat.png` });
  await alice.locator('#friend-bob').getByRole('button', { name: 'Kick' }).click();
  await bob.getByText('Kicked by alice').waitFor();
  await alice.locator('#friend-bob:not(.online)').waitFor();
  await alice.context().close();
  await bob.context().close();
});
