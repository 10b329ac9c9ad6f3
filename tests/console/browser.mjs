// A real Chromium, and pages that are held to what every page of the console promises.

import assert from 'node:assert/strict';
import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { chromium as playwright } from 'playwright-core';

const TOOLS = process.env.CONSOLE_TOOLS;

/** Unpacks the browser with its libraries and fonts, once, and resolves to `{executablePath, env}`. */
async function unpacked() {
  const given = process.env.SWITCHBOARD_TEST_CHROMIUM;
  if (given) return { executablePath: given, env: process.env };
  // The package unpacks into the folder for temporary files, and its libraries only where it takes itself to be a service of AWS's.
  process.env.TMPDIR = TOOLS;
  process.env.AWS_EXECUTION_ENV = 'AWS_Lambda_nodejs20.x';
  const { default: chromium } = await import('@sparticuz/chromium');
  const executablePath = await chromium.executablePath();
  const fonts = path.join(TOOLS, 'fonts.conf');
  // Its own font first, so that pictures look alike on every machine.
  writeFileSync(fonts, `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>${TOOLS}/fonts</dir><dir>/usr/share/fonts</dir><cachedir>${TOOLS}/fonts-cache</cachedir>
<alias><family>system-ui</family><prefer><family>Open Sans</family></prefer></alias></fontconfig>`);
  return { executablePath, env: { ...process.env, FONTCONFIG_FILE: fonts } };
}

export async function launch() {
  const { executablePath, env } = await unpacked();
  assert.ok(existsSync(executablePath), `no Chromium at ${executablePath}`);
  return playwright.launch({ executablePath, env, args: ['--no-sandbox', '--font-render-hinting=none'] });
}

/**
 * A page of its own. `page.held()` fails if it has asked any other host than its own for anything, has met its policy, or has a script that
 * failed. `expected`: statuses of answers that the test causes.
 */
export async function open(browser, { colorScheme = 'light', expected = [], ...options } = {}) {
  const context = await browser.newContext({ colorScheme, viewport: { width: 1200, height: 720 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(15000);
  const [hosts, wrong] = [new Set(), []];
  page.on('request', (request) => hosts.add(new URL(request.url()).host));
  page.on('websocket', (socket) => hosts.add(new URL(socket.url()).host));
  page.on('pageerror', (error) => wrong.push(error.message));
  page.on('console', (message) => {
    const status = /status of (\d+)/.exec(message.text())?.[1];
    if (message.type() === 'error' && !expected.includes(Number(status))) wrong.push(message.text());
  });
  page.on('dialog', (dialog) => { wrong.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.held = () => {
    assert.deepEqual(wrong, []);
    assert.deepEqual([...hosts], [new URL(page.url()).host]);
  };
  return page;
}

/** A picture of the page, in target/console. */
export const picture = (page, name) => page.screenshot({ path: path.join(process.env.CONSOLE_PICTURES, `${name}.png`) });
