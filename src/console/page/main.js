// Signs in, and shows the view that the address names.

import { may, session, signIn, signOut } from './api.js';
import { badge, field, h, trouble } from './dom.js';
import { observe, overview } from './overview.js';
import { closeAll, playground } from './playground.js';
import { rooms } from './rooms.js';
import { tail } from './tail.js';
import { connection, user } from './user.js';
import { users } from './users.js';

const SCOPES = ['read', 'send', 'disconnect', 'admin'];
const VIEWS = [[/^$/, overview], [/^users$/, users], [/^users\/(.+)$/, user], [/^connections\/(.+)$/, connection], [/^rooms$/, rooms], [/^tail$/, tail], [/^playground$/, playground]];

const [main, bar, who] = ['main', 'bar', 'who'].map((id) => document.getElementById(id));

/** What ends when the view is left, and what when the session is. */
let [view, signedIn] = [new AbortController(), new AbortController()];

function leave() {
  view.abort();
  view = new AbortController();
  main.replaceChildren();
}

function show() {
  if (!session.me) return;
  leave();
  const at = location.hash.replace(/^#\/?/, '');
  const [pattern, make] = VIEWS.find(([pattern]) => pattern.test(at)) ?? VIEWS[0];
  let name;
  try {
    name = decodeURIComponent(pattern.exec(at)?.[1] ?? '');
  } catch {
    name = at;
  }
  for (const link of bar.querySelectorAll('nav a')) {
    const to = link.hash.slice(2);
    const current = to === at.split('/')[0] || (to === 'users' && at.startsWith('connections/'));
    link[current ? 'setAttribute' : 'removeAttribute']('aria-current', 'page');
  }
  document.title = `${name || bar.querySelector('[aria-current]')?.textContent || 'Overview'} – Switchboard`;
  make(main, view.signal, name);
  main.focus({ preventScroll: true });
}

function enter() {
  signedIn = new AbortController();
  const { name, nodeId, version } = session.me;
  who.replaceChildren(
    h('span', { class: 'node', title: `Node ${nodeId}, version ${version}` }, nodeId),
    h('span', { class: 'badges', title: `${name}: what this key opens`, 'aria-label': 'Scopes of the key' }, SCOPES.filter(may).map((scope) => badge(scope))),
    h('button', { class: 'small', onclick: () => leaveSession() }, 'Sign out'));
  bar.hidden = false;
  observe(signedIn.signal);
  show();
}

function leaveSession(why) {
  signOut();
  signedIn.abort();
  closeAll();
  form(why);
}

/** Asks for a key. */
function form(why) {
  leave();
  bar.hidden = true;
  document.title = 'Sign in – Switchboard';
  const problem = trouble();
  problem.show(why ? new Error(why) : null);
  const key = h('input', { type: 'password', autocomplete: 'off', required: true, spellcheck: 'false', 'aria-describedby': 'kept' });
  const take = async (value) => {
    try {
      await signIn(value);
      enter();
    } catch (error) {
      session.key = null;
      problem.show(error.status === 401 ? new Error('No such key.') : error);
    }
  };
  main.append(h('form', { class: 'panel sign-in', onsubmit: (event) => { event.preventDefault(); take(key.value); } },
    h('h1', null, h('img', { src: 'console/icon.svg', alt: '', width: '24', height: '24' }), 'Switchboard'),
    field('API key, or an administrator\'s token', key), problem,
    h('div', { class: 'actions' },
      session.settings?.apiKey && h('button', { type: 'button', onclick: () => take(session.settings.apiKey) }, 'Use the development key'),
      h('button', { class: 'primary' }, 'Sign in')),
    h('p', { class: 'muted', id: 'kept' }, 'The key stays in this tab, until it is closed or you sign out. The page shows what the key\'s scopes allow.')));
  key.focus();
}

addEventListener('hashchange', show);
addEventListener('signed-out', (event) => session.me && leaveSession(event.detail ?? 'The key does not open the API any more.'));

try {
  session.settings = await (await fetch('console/settings', { cache: 'no-store' })).json();
  const key = session.key ?? session.settings.apiKey;
  if (key) await signIn(key).then(enter);
  else form();
} catch (error) {
  if (error.status === 401) signOut();
  form(error.status === 401 ? null : 'The node does not answer. Load the page again in a moment.');
}
