// deploy/prometheus and deploy/grafana, held to what a node exports: a metric that is renamed breaks a test, not an alert.
// That the dashboard's expressions have data is tests/compose/expressions.mjs' to find out, against a live Prometheus.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { expressions, ruleNames, substitute } from '../compose/expressions.mjs';
import { before, connect, connected, describe, parseMetrics, someone, startNode, startRedis, test } from './harness.mjs';
import { calling } from './support/backend.mjs';

const DEPLOY = new URL('../../deploy/', import.meta.url);
const PROMETHEUS = new URL('prometheus/', DEPLOY);

const read = (path) => readFileSync(new URL(path, DEPLOY), 'utf8');
const files = (folder) => readdirSync(new URL(folder, PROMETHEUS)).filter((name) => name.endsWith('.yml')).map((name) => `${folder}${name}`);
const rules = files('rules/').flatMap((file) => parse(read(`prometheus/${file}`)).groups.flatMap((group) => group.rules));
const alerts = rules.filter((rule) => rule.alert);
const records = rules.filter((rule) => rule.record);
const dashboard = JSON.parse(read('grafana/dashboards/switchboard.json'));
const panels = dashboard.panels.filter(({ type }) => type !== 'row');

/** Everything that Prometheus is asked, as `{what, expr}`. */
const queries = [
  ...rules.map(({ alert, record, expr }) => ({ what: alert ?? record, expr })),
  ...expressions(dashboard).map(({ panel, expr }) => ({ what: `panel "${panel}"`, expr: substitute(expr) })),
];

/** How long promtool may take, in milliseconds: seconds of work on an idle machine. */
const PATIENCE = 240000;

function promtool(...args) {
  const { status, stdout, stderr, error } = spawnSync('promtool', args, { cwd: fileURLToPath(PROMETHEUS), encoding: 'utf8', timeout: PATIENCE });
  assert.ok(!error, `expected promtool to run (Debian: package prometheus): ${error?.message}`);
  assert.equal(status, 0, `expected "promtool ${args.join(' ')}" to be content\n${stdout}${stderr}`);
}

/** The metrics that an expression names, with its matchers: `[{name, matchers: [{label, operator, value}]}]`. */
function selectors(expr) {
  const bare = expr.replace(/\bby\s*\([^)]*\)|\bon\s*\([^)]*\)/g, ' ');
  return [...bare.matchAll(/(?<!["\w:])([a-zA-Z_:][\w:]*)\s*(?:\{([^}]*)\})?(?!\s*\(|[\w:"])/g)]
    .map(([, name, inner = '']) => ({
      name,
      matchers: [...inner.matchAll(/(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"/g)].map(([, label, operator, value]) => ({ label, operator, value })),
    }))
    .filter(({ name }) => /^(switchboard|process)_|:/.test(name));
}

describe('deploy/prometheus', () => {
  test('promtool is content with the rules', { ms: PATIENCE }, async () => promtool('check', 'rules', ...files('rules/')));

  test('every case of promtool test rules passes', { ms: PATIENCE }, async () => promtool('test', 'rules', ...files('tests/')));

  test('every alert has a case that fires and one that does not', async () => {
    const cases = files('tests/').flatMap((file) => parse(read(`prometheus/${file}`)).tests.flatMap((one) => one.alert_rule_test ?? []));
    for (const { alert } of alerts) {
      const own = cases.filter(({ alertname }) => alertname === alert);
      assert.ok(own.some(({ exp_alerts }) => exp_alerts.length > 0), `expected a case in which ${alert} fires`);
      assert.ok(own.some(({ exp_alerts }) => exp_alerts.length === 0), `expected a case in which ${alert} does not fire`);
    }
    for (const { alertname } of cases) assert.ok(alerts.some(({ alert }) => alert === alertname), `there is no alert ${alertname} to test`);
  });

  test('every alert says how bad it is, what it means and what to do', async () => {
    const headings = new Set([...read('README.md').matchAll(/^### (\w+)$/gm)].map(([, name]) => name));
    for (const { alert, for: lasting, labels, annotations } of alerts) {
      assert.match(String(lasting), /^\d+[smh]$/, `expected ${alert} to have a "for"`);
      assert.ok(['critical', 'warning'].includes(labels?.severity), `expected ${alert} to be critical or a warning`);
      for (const key of ['summary', 'description']) assert.ok(annotations?.[key]?.length > 10, `expected ${alert} to have a ${key}`);
      assert.equal(annotations.runbook, `deploy/README.md#${alert.toLowerCase()}`);
      assert.ok(headings.delete(alert), `expected deploy/README.md to have a heading "### ${alert}", once`);
    }
    assert.deepEqual([...headings], [], 'headings in deploy/README.md that no alert has');
    assert.deepEqual(ruleNames(), { alerts: alerts.map(({ alert }) => alert), records: records.map(({ record }) => record) }, 'what expressions.mjs takes for the rules');
  });
});

describe('deploy/grafana', () => {
  test('the dashboard can be read and used', async () => {
    const ids = dashboard.panels.map(({ id }) => id);
    assert.equal(new Set(ids).size, ids.length, 'expected each panel to have an id of its own');
    for (const { title, type, description, datasource, targets, fieldConfig, gridPos } of panels) {
      // Those that Grafana 11 has not deprecated.
      assert.ok(['stat', 'timeseries', 'table'].includes(type), `panel "${title}" is of the type ${type}`);
      assert.ok(description, `expected the panel "${title}" to have a description`);
      assert.equal(datasource.uid, '${datasource}', `expected the panel "${title}" to take the data source that was chosen`);
      assert.ok(targets.length && targets.every((target) => target.expr && target.datasource.uid === '${datasource}'), `the targets of the panel "${title}"`);
      if (type !== 'table') assert.ok(fieldConfig.defaults.unit, `expected the panel "${title}" to have a unit`);
      assert.ok(gridPos.x + gridPos.w <= 24, `expected the panel "${title}" to fit`);
    }
    const overlap = panels.find((one, i) => panels.slice(i + 1).some(({ gridPos: { x, y, w, h } }) =>
      x < one.gridPos.x + one.gridPos.w && one.gridPos.x < x + w && y < one.gridPos.y + one.gridPos.h && one.gridPos.y < y + h));
    assert.equal(overlap?.title, undefined, 'a panel that covers another');
    assert.deepEqual(dashboard.templating.list.map(({ name }) => name), ['datasource', 'job', 'instance']);
  });

  test('Grafana is told of the data source and the dashboards', async () => {
    const [source] = parse(read('grafana/provisioning/datasources/prometheus.yml')).datasources;
    assert.equal(source.type, 'prometheus');
    assert.equal(source.uid, dashboard.templating.list[0].current.value, 'expected the dashboard to begin with the data source that is provisioned');
    const [provider] = parse(read('grafana/provisioning/dashboards/switchboard.yml')).providers;
    assert.equal(provider.options.path, '/var/lib/grafana/dashboards');
  });
});

describe('what is asked for is there', () => {
  let metrics;
  before(async () => {
    const redis = await startRedis();
    const node = await startNode({ redis, name: 'observed', env: calling({ url: 'http://127.0.0.1:9' }) });
    try {
      await connected(node, { user: someone() });
      await connect(node, { token: 'rubbish' }).refused('Invalid token');
      await node.api.stats();
      metrics = parseMetrics((await node.api.request('GET', '/metrics')).text);
    } finally {
      await node.kill();
      await redis.stop();
    }
  });

  test('every metric that is named is one that a node exports, or a recording rule', async () => {
    const recorded = new Set(records.map(({ record }) => record));
    const used = new Set();
    for (const { what, expr } of queries) {
      for (const { name } of selectors(expr)) {
        used.add(name);
        assert.ok(recorded.has(name) || metrics.series.has(name), `${what} asks for ${name}, which no node exports and no rule records`);
      }
    }
    for (const record of recorded) assert.ok(used.has(record), `nobody asks for the recording rule ${record}`);
    // Each counter and gauge of Switchboard's own is looked at by somebody.
    for (const name of metrics.types.keys()) {
      if (name.startsWith('switchboard_')) assert.ok([...used].some((one) => one === name || one.startsWith(`${name}_`)), `neither rules nor dashboard look at ${name}`);
    }
  });

  test('every series that is declared is exported before it has counted anything', async () => {
    const declared = [...readFileSync(new URL('../../src/metrics/table.rs', import.meta.url), 'utf8').matchAll(/"(switchboard_\w+)"/g)].map(([, name]) => name);
    assert.deepEqual(declared.filter((name) => !metrics.types.has(name)), [], 'series that a node does not begin (src/metrics/mod.rs)');
  });

  test('every label that is matched is there, with that value', async () => {
    const ours = new Set(['job', 'instance']);
    for (const { what, expr } of queries) {
      for (const { name, matchers } of selectors(expr)) {
        const samples = metrics.series.get(name);
        for (const { label, operator, value } of samples ? matchers.filter((one) => !ours.has(one.label)) : []) {
          const values = samples.map(({ labels }) => labels[label]).filter((one) => one !== undefined);
          assert.ok(values.length, `${what} looks at the label ${label} of ${name}, which has none`);
          // A status is there once it was answered.
          if (label === 'status') continue;
          const pattern = new RegExp(`^(?:${operator.endsWith('~') ? value : value.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')})$`);
          assert.ok(values.some((one) => pattern.test(one)), `${what} looks for ${label}${operator}"${value}" of ${name}, which has ${[...new Set(values)]}`);
        }
      }
    }
  });
});
