// Calls of /v1, with the key that the page was given. The key is in this tab's sessionStorage and nowhere else.

const KEPT = 'switchboard-key';

/** Who is signed in: `{name, scopes, nodeId, version}` of /v1/me, and what the node says of itself in console/settings. */
export const session = { key: sessionStorage.getItem(KEPT), me: null, settings: null };

/** What the API says is wrong. `status` is 0 where it says nothing. */
export class Problem extends Error {
  constructor(message, status = 0, code = '') {
    super(message);
    Object.assign(this, { status, code });
  }
}

export const may = (scope) => Boolean(session.me?.scopes.includes(scope));

/** One segment of a path. A lone dot, or two, would mean a folder. */
const segment = (text) => encodeURIComponent(text).replace(/^\.{1,2}$/, (dots) => dots.replaceAll('.', '%2E'));

/** A path below v1/, whose values are escaped. */
export const path = (parts, ...values) => String.raw({ raw: parts }, ...values.map(segment));

/** The answer to a request, once it is one of success. */
export async function open(method, path, { body, signal } = {}) {
  let response;
  try {
    response = await fetch(`v1/${path}`, {
      method,
      signal,
      cache: 'no-store',
      credentials: 'omit',
      headers: { authorization: `Bearer ${session.key}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    throw signal?.aborted ? error : new Problem('The node does not answer. Trying again.');
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401) dispatchEvent(new CustomEvent('signed-out', { detail: problem.detail }));
  throw new Problem(`${problem.detail ?? response.statusText} (${response.status})`, response.status, problem.code);
}

/** A call of the API; resolves to its answer. */
export const call = async (method, path, body) => (await open(method, path, { body })).json();

export const get = (path) => call('GET', path);

/** Takes a key, and learns what it opens. Nothing is kept of one that opens nothing. */
export async function signIn(key) {
  session.key = key;
  session.me = await get('me');
  sessionStorage.setItem(KEPT, key);
}

export function signOut() {
  sessionStorage.removeItem(KEPT);
  session.key = session.me = null;
}

/** What an end answers, in words. */
export function ended({ disconnected, nodes, remaining }) {
  const what = `${disconnected} connection${disconnected === 1 ? '' : 's'} ended on ${nodes} node${nodes === 1 ? '' : 's'}`;
  return remaining.length ? `${what}; not confirmed in 5 s: ${remaining.join(', ')}` : `${what}.`;
}
