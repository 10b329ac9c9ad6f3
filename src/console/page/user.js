// One user with its connections, or one connection; and what can be done about them.

import { call, ended, get, may, path } from './api.js';
import { ago, ask, attempt, badge, connectionLink, every, h, heading, span, table, trouble, userLink } from './dom.js';
import { needs, sendForm } from './send.js';

const POLL = 2000;

function connections() {
  return table({
    label: 'Connections',
    empty: 'No connection.',
    key: (connection) => connection.id,
    columns: [
      { name: 'Connection', once: true, cell: ({ id }) => connectionLink(id) },
      { name: 'Namespace', cell: ({ namespace }) => namespace },
      { name: 'Node', cell: ({ nodeId }) => nodeId },
      { name: 'Transport', cell: ({ transport }) => transport },
      { name: 'Device', cell: ({ deviceId }) => deviceId ?? '–' },
      { name: 'Rooms', cell: ({ rooms }) => h('span', { class: 'cut', title: rooms?.join('\n') }, rooms?.join(', ') || '–') },
      { name: 'Address', cell: ({ remoteAddr }) => remoteAddr ?? '–' },
      { name: 'Connected', right: true, cell: ({ connectedAt }) => ago(connectedAt) },
      { name: 'Expires', right: true, cell: ({ expiresAt }) => (expiresAt ? h('time', { datetime: expiresAt, title: expiresAt }, `in ${span(expiresAt)}`) : 'never') },
      { name: 'Agent', cell: ({ userAgent }) => h('span', { class: 'cut', title: userAgent }, userAgent ?? '–') },
      { name: '', right: true, once: true, cell: ({ id }) => h('button', { class: 'small', onclick: () => end(id), 'aria-label': `Disconnect ${id}`, ...needs('disconnect') }, 'Disconnect') },
    ],
  });
}

const end = (id) => attempt(async () => ended(await call('DELETE', path`connections/${id}`)));

/** One connection, also a guest's. */
export function connection(root, signal, id) {
  const [problem, list, who] = [trouble(), connections(), h('p')];
  root.append(heading('Connection', h('span', { class: 'mono muted' }, id)), problem, who, list, h('h2', null, 'Send to this connection'), h('div', { class: 'panel' }, sendForm(path`connections/${id}/events`, { body: {} })));
  if (!may('read')) return problem.show(new Error('This key lacks the scope "read", so connections can\'t be looked up.'));
  every(POLL, signal, async () => {
    const found = await get(path`connections/${id}`);
    list.update([found]);
    who.replaceChildren('Of ', userLink(found.userId));
  }, (error) => {
    if (error?.status === 404) list.update([]);
    problem.show(error);
  });
}

export function user(root, signal, id) {
  const [problem, list, state] = [trouble(), connections(), h('span', { class: 'badges' })];
  const refresh = async () => {
    const found = await get(path`users/${id}`);
    list.update(found.connections);
    const seen = found.online ? `${found.devices} device${found.devices === 1 ? '' : 's'}` : found.lastSeen ? `last seen ${span(found.lastSeen)} ago` : 'not seen';
    state.replaceChildren(found.online ? badge('online', 'ok') : badge('offline'), found.banned ? badge('banned', 'bad') : '', h('span', { class: 'muted' }, seen));
    [ban.hidden, unban.hidden] = [found.banned, !found.banned];
  };
  /** Does it, says what came of it, and shows the user as it is then. */
  const act = (action) => attempt(action).then(() => may('read') && refresh().catch(problem.show));
  const reason = () => ({ name: 'reason', label: 'Reason, which the client is told', control: h('input', { maxlength: '512', autocomplete: 'off' }) });
  const disconnect = h('button', {
    ...needs('disconnect'),
    onclick: () => ask({
      title: `Disconnect ${id}?`,
      text: 'Ends all of the user\'s connections, on every node. The clients do not come back by themselves; the user may.',
      fields: [reason()],
      agree: 'Disconnect',
      danger: true,
      done: async ({ reason }) => {
        const answer = await call('POST', path`users/${id}/disconnect`, reason ? { reason } : {});
        await act(() => ended(answer));
      },
    }),
  }, 'Disconnect');
  const ban = h('button', {
    class: 'danger',
    ...needs('disconnect'),
    onclick: () => ask({
      title: `Ban ${id}?`,
      text: 'Ends the user\'s connections, and lets none in until the ban is over.',
      fields: [reason(), { name: 'until', label: 'Until; for good if empty', control: h('input', { type: 'datetime-local' }) }],
      agree: 'Ban',
      danger: true,
      done: async ({ reason, until }) => {
        const body = { ...(reason && { reason }), ...(until && { until: new Date(until).toISOString() }) };
        const answer = await call('PUT', path`users/${id}/ban`, body);
        await act(() => `Banned. ${ended(answer)}`);
      },
    }),
  }, 'Ban');
  const unban = h('button', {
    hidden: true,
    ...needs('disconnect'),
    onclick: () => act(async () => {
      await call('DELETE', path`users/${id}/ban`);
      return 'The ban is lifted.';
    }),
  }, 'Unban');
  root.append(heading(id, state, h('div', { class: 'actions' }, disconnect, ban, unban)), problem, list, h('h2', null, 'Send to all of them'), h('div', { class: 'panel' }, sendForm(path`users/${id}/events`)));
  if (!may('read')) return problem.show(new Error('This key lacks the scope "read": what can be done is there, and what is so is not shown.'));
  every(POLL, signal, refresh, problem.show);
}
