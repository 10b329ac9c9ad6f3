// The rooms that have members, a page at a time.

import { get, may } from './api.js';
import { count, every, field, h, heading, table, trouble } from './dom.js';

const PAGE = 50;

export function rooms(root, signal) {
  const [problem, cursors] = [trouble(), ['']];
  const prefix = h('input', { type: 'search', maxlength: '200', autocomplete: 'off' });
  const namespace = h('input', { placeholder: 'all', autocomplete: 'off' });
  const anew = (event) => {
    event?.preventDefault();
    cursors.length = 1;
    refresh().catch(failed);
  };
  const list = table({
    label: 'Rooms',
    empty: 'No room has members.',
    key: ({ namespace, room }) => `${namespace}\0${room}`,
    columns: [
      { name: 'Room', cell: ({ room }) => room },
      { name: 'Namespace', cell: ({ namespace }) => namespace },
      { name: 'Connections', right: true, cell: ({ connections }) => count(connections) },
    ],
  });
  const turn = (change) => () => { change(); refresh().catch(failed); };
  const back = h('button', { onclick: turn(() => cursors.pop()), disabled: true }, 'Previous');
  const forth = h('button', { onclick: turn(() => cursors.push(next)), disabled: true }, 'Next');
  const pages = h('div', { class: 'pages' }, back, forth);
  let next = null;
  const failed = (error) => {
    list.hidden = pages.hidden = error?.status === 404;
    problem.show(error?.status === 404 ? new Error('Rooms are not available: this node can\'t list them.') : error);
  };
  const refresh = async () => {
    const cursor = cursors.at(-1);
    const query = new URLSearchParams({ limit: PAGE, cursor, prefix: prefix.value });
    if (namespace.value) query.set('namespace', namespace.value);
    const page = await get(`rooms?${query}`);
    if (cursor !== cursors.at(-1)) return;
    next = page.next;
    list.update(page.rooms);
    [back.disabled, forth.disabled] = [cursors.length === 1, !next];
  };
  root.append(heading('Rooms', h('form', { class: 'inline', onsubmit: anew }, field('Begins with', prefix), field('Namespace', namespace), h('button', null, 'Filter'))), problem, list, pages);
  if (!may('read')) return problem.show(new Error('This key lacks the scope "read", so rooms can\'t be listed.'));
  every(3000, signal, refresh, failed);
}
