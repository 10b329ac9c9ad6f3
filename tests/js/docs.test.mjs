// The pages of the repository, held to what is there: links lead somewhere, every metric has its row, and the tests that a promise names
// exist. That docs/configuration.md has every key is tested in tests/cli.rs.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const read = (path) => readFileSync(join(ROOT, path), 'utf8');

/** The files below a folder, as paths from the root. Not those of packages and builds. */
function below(folder, suffix) {
  return readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return ['node_modules', 'target', '.git'].includes(entry.name) ? [] : below(path, suffix);
    return entry.name.endsWith(suffix) ? [path] : [];
  });
}

/** Names that GitHub gives to a page's headings. */
function anchors(page) {
  const headings = [...read(page).replace(/^```.*?^```/gms, '').matchAll(/^#+ (.*)$/gm)];
  return new Set(headings.map(([, text]) => text.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, '').replaceAll(' ', '-')));
}

/** Cells of a page's tables, row by row, without heads. */
const rows = (page) => [...read(page).matchAll(/^\| (.*) \|$/gm)].map(([, row]) => row.split(' | '));
const quoted = (cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name);

test('every link of a page to another file leads to a file, and to a heading of it', () => {
  for (const page of below('.', '.md')) {
    for (const [, target] of read(page).matchAll(/\]\((?!\w+:)([^)\s]+)\)/g)) {
      const [path, anchor] = target.split('#');
      const to = path ? join(dirname(page), path) : page;
      assert.ok(existsSync(join(ROOT, to)), `${page} links to ${target}, which is not there`);
      if (anchor) assert.ok(anchors(to).has(anchor), `${page} links to ${target}, a heading that ${to} does not have`);
    }
  }
});

test('docs/metrics.md names every series of the table, and no other', () => {
  const series = new Set([...read('src/metrics/table.rs').matchAll(/"(switchboard_\w+)"/g)].map(([, name]) => name));
  const written = new Set(rows('docs/metrics.md').flatMap(([first]) => quoted(first)).map((name) => name.replace(/\{.*/, '')).filter((name) => name.startsWith('switchboard_')));
  assert.ok(series.size > 20, `expected src/metrics/table.rs to be read, got ${series.size} series`);
  assert.deepEqual([...series].filter((name) => !written.has(name)), [], 'series that are not explained');
  assert.deepEqual([...written].filter((name) => !series.has(name)), [], 'series that are not there');
});

test('every test that docs/promises.md names is there', () => {
  const sources = below('tests', '.rs');
  const functions = sources.flatMap((path) => [...read(path).matchAll(/\bfn (\w+)/g)].map(([, name]) => name));
  const named = rows('docs/promises.md').filter((row) => row.length === 4).flatMap((row) => quoted(row[3]));
  assert.ok(named.length > 50, `expected docs/promises.md to be read, got ${named.length} tests`);
  for (const name of named) {
    if (name.startsWith('js ')) {
      for (const file of name.slice(3).split(' ')) assert.ok(existsSync(join(ROOT, `tests/js/${file}.test.mjs`)), `there is no tests/js/${file}.test.mjs`);
    } else if (name.endsWith('*')) {
      assert.ok(functions.some((one) => one.startsWith(name.slice(0, -1))), `no test's name begins with ${name}`);
    } else {
      assert.ok(sources.some((path) => path.endsWith(`/${name}.rs`) || path.endsWith(`/${name}/main.rs`)), `there is no test called ${name}`);
    }
  }
});
