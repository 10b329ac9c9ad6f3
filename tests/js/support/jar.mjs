// What a browser does with cookies, as far as the tests need it.

import { exchange } from './api.mjs';

/** A browser's cookies, as far as they are needed: names and values, and what the last answer said of each. */
export class Jar {
  constructor() {
    this.cookies = new Map();
    this.lines = new Map();
  }

  /** Takes the Set-Cookie headers of an answer of exchange(). */
  take(answer) {
    for (const line of answer.headers['set-cookie'] ?? []) {
      const [, name, value] = /^([^=;]+)=([^;]*)/.exec(line);
      this.lines.set(name, line);
      if (!value || /;\s*max-age=0*(;|$)/i.test(line) || /;\s*expires=[^;]*\b1970\b/i.test(line)) this.cookies.delete(name);
      else this.cookies.set(name, value);
    }
    return answer;
  }

  /** Takes one Set-Cookie line that came another way. */
  keep(line) {
    this.take({ headers: { 'set-cookie': [line] } });
    return this;
  }

  /** A copy: another tab, or a thief. */
  copy() {
    const other = new Jar();
    other.cookies = new Map(this.cookies);
    return other;
  }

  /** A POST with the cookies, as `fetch(path, { method: 'POST', credentials: 'include' })` makes it. */
  async post(base, path, { headers = {} } = {}) {
    const all = { 'content-length': 0, ...headers };
    if (this.cookies.size) all.cookie = this.header;
    return this.take(await exchange(base, 'POST', path, { headers: all }));
  }

  /** `fetch` as a page that was loaded from `base` has it. */
  fetch(base) {
    return async (path, { method = 'GET', credentials = 'same-origin' } = {}) => {
      if (method !== 'POST' || !['include', 'same-origin'].includes(credentials)) throw new Error(`no such fetch here: ${method}, ${credentials}`);
      const { status, json } = await this.post(base, path, { headers: { origin: base } });
      return { status, ok: status >= 200 && status < 300, json: async () => json };
    };
  }

  get header() {
    return [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ');
  }
}

