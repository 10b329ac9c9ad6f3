// Looks at a live Prometheus as an operator would: every expression of the dashboard and every recording rule has data, every
// rule is loaded and can be evaluated, and no alert fires.
//
//   PROMETHEUS_URL=http://127.0.0.1:9090 node tests/compose/expressions.mjs
//
// To be run after traffic, while the system is well. Prints what it has looked at, or what is wrong (exit code 1).
//
//   JOB=switchboard        the job that scrapes the nodes
//   RATE_INTERVAL=1m       what Grafana would take for $__rate_interval: four scrape intervals at the least
//   WAIT=120               seconds until which all that is to be there must be there
//   ALLOWED_ALERTS=A,B     alerts that may fire, as after a node was killed on purpose
//   UNUSED=switchboard_backend_
//                          what the names of series begin with that a fleet has none of, as it does not use what they count: they may
//                          have no number

import { readdirSync, readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const DEPLOY = new URL('../../deploy/', import.meta.url);
const DASHBOARD = new URL('grafana/dashboards/switchboard.json', DEPLOY);
const RULES = new URL('prometheus/rules/', DEPLOY);

/** Every query of every panel, as `{panel, refId, expr}`; those of the annotations too. */
export function expressions(dashboard = JSON.parse(readFileSync(DASHBOARD, 'utf8'))) {
  const panels = dashboard.panels.flatMap((panel) => [panel, ...(panel.panels ?? [])]);
  return [
    ...panels.flatMap(({ title, targets = [] }) => targets.map(({ refId, expr }) => ({ panel: title, refId, expr }))),
    ...dashboard.annotations.list.filter(({ expr }) => expr).map(({ name, expr }) => ({ panel: `annotation ${name}`, refId: 'A', expr })),
  ];
}

/** `expr` with Grafana's variables replaced. Throws on one that is unknown: Prometheus would take its name for a label's value. */
export function substitute(expr, { job = 'switchboard', instance = '.*', rateInterval = '1m', range = '1h' } = {}) {
  const values = { job, instance, __rate_interval: rateInterval, __interval: rateInterval, __range: range };
  return expr.replace(/\$\{?([A-Za-z_]\w*)(?::\w+)?\}?/g, (variable, name) => {
    if (!(name in values)) throw new Error(`no value for ${variable} in ${expr}`);
    return values[name];
  });
}

/** The names of the rules in the files: `{alerts, records}`. */
export function ruleNames() {
  const text = readdirSync(RULES).filter((name) => name.endsWith('.yml')).map((name) => readFileSync(new URL(name, RULES), 'utf8')).join('\n');
  const names = (kind) => [...text.matchAll(new RegExp(`^ +- ${kind}: (\\S+)$`, 'gm'))].map(([, name]) => name);
  return { alerts: names('alert'), records: names('record') };
}

async function ask(prometheus, path, parameters = {}) {
  const url = new URL(path, `${prometheus.replace(/\/$/, '')}/`);
  url.search = new URLSearchParams(parameters);
  const response = await fetch(url, { signal: AbortSignal.timeout(15000) });
  const answer = await response.json();
  if (answer.status !== 'success') throw new Error(`${answer.errorType}: ${answer.error}`);
  return answer.data;
}

/** The numbers that an expression has now; NaN is none. */
async function numbers(prometheus, expr) {
  const { resultType, result } = await ask(prometheus, 'api/v1/query', { query: expr });
  const values = resultType === 'scalar' ? [result[1]] : result.map(({ value }) => value[1]);
  return values.map(Number).filter(Number.isFinite);
}

/** One look. Returns `{wrong, queries, rules}`; `wrong` has a line for each thing that is not as it must be. */
export async function look(prometheus, { allowed = [], unused = [], ...variables } = {}) {
  const wrong = [];
  const { groups } = await ask(prometheus, 'api/v1/rules');
  const rules = groups.flatMap((group) => group.rules);
  const { alerts, records } = ruleNames();
  for (const [type, names] of [['alerting', alerts], ['recording', records]]) {
    for (const name of names) {
      const rule = rules.find((one) => one.type === type && one.name === name);
      if (!rule) wrong.push(`rule ${name} is not loaded`);
      else if (rule.health !== 'ok') wrong.push(`rule ${name}: health is ${rule.health}${rule.lastError ? `, ${rule.lastError}` : ''}`);
      else if (rule.state === 'firing' && !allowed.includes(name)) {
        wrong.push(`alert ${name} fires: ${rule.alerts.map((alert) => `${JSON.stringify(alert.labels)} ${alert.annotations.description}`).join('; ')}`);
      }
    }
  }
  const queries = [
    ...expressions().map(({ panel, refId, expr }) => ({ what: `panel "${panel}" ${refId}`, expr: substitute(expr, variables) })),
    ...records.map((name) => ({ what: `recording rule ${name}`, expr: name })),
  ];
  for (const { what, expr } of queries) {
    try {
      const found = await numbers(prometheus, expr);
      if (!found.length && !unused.some((name) => expr.includes(name))) wrong.push(`${what} has no number: ${expr}`);
    } catch (error) {
      wrong.push(`${what}: ${error.message}: ${expr}`);
    }
  }
  return { wrong, queries: queries.length, rules: rules.length };
}

/** Looks until nothing is wrong, for `seconds` at the most: scrapes and rules take their time. */
export async function check(prometheus, { seconds = 120, ...options } = {}) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const seen = await look(prometheus, options).catch((error) => ({ wrong: [`${prometheus} can't be asked: ${error.cause?.message ?? error.message}`] }));
    if (!seen.wrong.length || Date.now() >= deadline) return seen;
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { PROMETHEUS_URL, JOB, RATE_INTERVAL, WAIT, ALLOWED_ALERTS, UNUSED = 'switchboard_backend_' } = process.env;
  if (!PROMETHEUS_URL) {
    console.error('expressions: set PROMETHEUS_URL');
    process.exit(2);
  }
  const { wrong, queries, rules } = await check(PROMETHEUS_URL, { job: JOB, rateInterval: RATE_INTERVAL, seconds: Number(WAIT ?? 120), allowed: ALLOWED_ALERTS?.split(','), unused: UNUSED.split(',').filter(Boolean) });
  for (const line of wrong) console.error(`expressions: ${line}`);
  if (wrong.length) process.exit(1);
  console.log(`expressions: ${queries} queries have numbers, ${rules} rules are well, no alert fires`);
}
