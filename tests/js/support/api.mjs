// The HTTP API as a backend calls it. node:http and not fetch: a path goes out byte for byte, also with %2E%2E in it.

import assert from 'node:assert/strict';
import http from 'node:http';
import { within } from './wait.mjs';

/** One path segment: a user id, say. encodeURIComponent leaves dots alone, and a lone `..` would mean the parent. */
export function segment(text) {
  return encodeURIComponent(text).replace(/^\.{1,2}$/, (dots) => dots.replaceAll('.', '%2E'));
}

/** One HTTP exchange; resolves to `{status, headers, text, json}` (json: undefined when the body is none). */
export function exchange(base, method, path, { headers = {}, body, ms = 15000 } = {}) {
  const { hostname, port } = new URL(base);
  const answer = new Promise((resolve, reject) => {
    // No connection is kept: a node that is killed would leave a dead one for the next call.
    const request = http.request({ hostname, port, method, path, headers, agent: false }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('error', reject);
      response.on('end', () => {
        const text = Buffer.concat(parts).toString('utf8');
        let json;
        try {
          json = JSON.parse(text);
        } catch {}
        resolve({ status: response.statusCode, headers: response.headers, text, json });
      });
    });
    request.on('error', reject);
    request.end(body);
  });
  return within(ms, `an answer to ${method} ${base}${path.slice(0, 200)}`, answer);
}

/** Everything that any API answered in this test file, for a look at what must not be in there. */
export const answers = [];

export class Api {
  constructor(base, key) {
    this.base = base;
    this.key = key;
  }

  /** `json` is sent as JSON, `body` as it is; `key: null` sends no credentials. */
  async request(method, path, { json, body, headers = {}, key = this.key, ms } = {}) {
    const all = { ...headers };
    if (key !== null && key !== undefined) all.authorization ??= `Bearer ${key}`;
    if (json !== undefined) {
      body = JSON.stringify(json);
    }
    if (body !== undefined) {
      all['content-type'] ??= 'application/json';
      all['content-length'] ??= Buffer.byteLength(body);
    } else if (method === 'POST') {
      all['content-length'] ??= 0;
    }
    const answer = await exchange(this.base, method, path, { headers: all, body, ms });
    answers.push(answer.text);
    return answer;
  }

  /** The same, and it must answer `status` (200) with JSON, which is what it resolves to. */
  async ok(method, path, json, status = 200) {
    const answer = await this.request(method, path, { json });
    assert.equal(answer.status, status, `expected ${status} from ${method} ${path}, got ${answer.status}: ${answer.text.slice(0, 500)}`);
    assert.notEqual(answer.json, undefined, `expected JSON from ${method} ${path}, got: ${answer.text.slice(0, 200)}`);
    return answer.json;
  }

  user = (user) => this.ok('GET', `/v1/users/${segment(user)}`);
  send = (user, event, data, more = {}) => this.ok('POST', `/v1/users/${segment(user)}/events`, { event, data, ...more });
  disconnect = (user, body = {}) => this.ok('POST', `/v1/users/${segment(user)}/disconnect`, body);
  ban = (user, body = {}) => this.ok('PUT', `/v1/users/${segment(user)}/ban`, body);
  unban = (user) => this.ok('DELETE', `/v1/users/${segment(user)}/ban`);
  banOf = (user) => this.ok('GET', `/v1/users/${segment(user)}/ban`);
  revokeTokens = (user, body = {}) => this.ok('POST', `/v1/users/${segment(user)}/revoke-tokens`, body);
  revokeToken = (jti, more = {}) => this.ok('POST', '/v1/tokens/revoke', { jti, ...more });
  /** Opens a session that is refreshed over HTTP, as a backend does after it has logged the user in. */
  openSession = (user, body = {}) => this.ok('POST', `/v1/users/${segment(user)}/sessions`, body);
  connection = (id) => this.ok('GET', `/v1/connections/${segment(id)}`);
  stats = () => this.ok('GET', '/v1/stats');
  nodes = async () => (await this.ok('GET', '/v1/nodes')).nodes;
}

/** Holds an answer to RFC 9457 and to one of `statuses`. */
export function expectProblem(answer, statuses, what) {
  const wanted = [statuses].flat();
  const shown = `${answer.status} ${answer.headers['content-type']}: ${answer.text.slice(0, 300)}`;
  assert.ok(wanted.includes(answer.status), `expected ${what} to be answered with ${wanted.join(' or ')}, got ${shown}`);
  assert.match(answer.headers['content-type'] ?? '', /^application\/problem\+json/, `expected ${what} to be answered with application/problem+json, got ${shown}`);
  assert.equal(typeof answer.json?.code, 'string', `expected the problem of ${what} to carry a code, got ${shown}`);
  assert.ok(answer.json.code.length > 0, `expected the code of the problem of ${what} not to be empty, got ${shown}`);
  assert.equal(typeof answer.json.title, 'string', `expected the problem of ${what} to carry a title, got ${shown}`);
  if (answer.json.status !== undefined) {
    assert.equal(answer.json.status, answer.status, `expected the problem's status to be the answer's, got ${shown}`);
  }
}

/** Prometheus text as a map: name -> [{labels, value}], and the types that were declared. */
export function parseMetrics(text) {
  const series = new Map();
  const types = new Map();
  for (const line of text.split('\n')) {
    const type = /^# TYPE (\S+) (\S+)/.exec(line);
    if (type) types.set(type[1], type[2]);
    const sample = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!sample) continue;
    const labels = {};
    for (const [, name, value] of (sample[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    if (!series.has(sample[1])) series.set(sample[1], []);
    series.get(sample[1]).push({ labels, value: Number(sample[3]) });
  }
  const value = (name, labels = {}) =>
    (series.get(name) ?? [])
      .filter((sample) => Object.entries(labels).every(([key, wanted]) => sample.labels[key] === wanted))
      .reduce((sum, sample) => sum + sample.value, 0);
  return { series, types, value };
}
