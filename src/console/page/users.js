// Everybody online, a page at a time.

import { get, may } from './api.js';
import { count, every, h, heading, table, trouble, userLink } from './dom.js';

const PAGE = 50;
/** A connection's id has 23 characters; a user's may have too, so the connection is looked up first. */
const ID = /^[\w-]{23}$/;

export function users(root, signal) {
  const [problem, cursors] = [trouble(), ['']];
  const find = h('input', { type: 'search', placeholder: 'User id or connection id', 'aria-label': 'User id or connection id', maxlength: '255', required: true });
  const form = h('form', {
    class: 'inline',
    async onsubmit(event) {
      event.preventDefault();
      const id = find.value;
      const connection = ID.test(id) && await get(`connections/${id}`).catch(() => null);
      location.hash = `#/${connection ? 'connections' : 'users'}/${encodeURIComponent(id)}`;
    },
  }, find, h('button', null, 'Open'));
  const list = table({
    label: 'Users online',
    empty: 'Nobody is online.',
    key: (user) => user.userId,
    columns: [
      { name: 'User', cell: (user) => userLink(user.userId) },
      { name: 'Connections', right: true, cell: (user) => count(user.connections) },
      { name: 'Devices', right: true, cell: (user) => count(user.devices) },
    ],
  });
  const turn = (change) => () => { change(); refresh().catch(problem.show); };
  const back = h('button', { onclick: turn(() => cursors.pop()), disabled: true }, 'Previous');
  const forth = h('button', { onclick: turn(() => cursors.push(next)), disabled: true }, 'Next');
  const which = h('span', { class: 'muted' });
  let next = null;
  const refresh = async () => {
    const cursor = cursors.at(-1);
    const page = await get(`users?limit=${PAGE}&cursor=${encodeURIComponent(cursor)}`);
    if (cursor !== cursors.at(-1)) return;
    next = page.next;
    list.update(page.users);
    [back.disabled, forth.disabled] = [cursors.length === 1, !next];
    which.textContent = `page ${cursors.length}`;
  };
  root.append(heading('Users', form), problem, list, h('div', { class: 'pages' }, back, which, forth));
  if (!may('read')) return problem.show(new Error('This key lacks the scope "read", so users can\'t be listed.'));
  every(2000, signal, refresh, problem.show);
}
