// What happens on the node that answers, as it happens.

import { may, open } from './api.js';
import { badge, connectionLink, count, h, heading, pause, plural, trouble, userLink } from './dom.js';

/** Rows that are kept. The rest is left to the log and the metrics. */
const ROWS = 500;
const PAUSE = 1000;

/** What a type of happening is called, and how it is shown. */
const KINDS = {
  connected: ['connected', 'ok', ({ transport }) => `over ${transport}`],
  refused: ['refused', 'bad', ({ reason }) => reason],
  disconnected: ['disconnected', '', ({ reason, seconds }) => `${reason}, after ${seconds} s`],
  upgraded: ['upgraded', '', ({ transport }) => `to ${transport}`],
  joined: ['joined', '', ({ room }) => room],
  left: ['left', '', ({ room }) => room],
  message: ['message', 'info', ({ event, bytes, connections, kind }) => `${event}, ${count(bytes)} B, ${kind}, handed to ${plural(connections, 'connection')}`],
  event: ['client event', 'warn', ({ event, bytes }) => `${event}, ${count(bytes)} B`],
};

/** The events of a stream of Server-Sent Events: `[name, data]`. */
async function* eventsOf(response) {
  let rest = '';
  for await (const text of texts(response.body.pipeThrough(new TextDecoderStream()).getReader())) {
    const events = (rest + text).split('\n\n');
    rest = events.pop();
    for (const event of events) {
      const fields = Object.fromEntries(event.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]));
      if (fields.data) yield [fields.event ?? '', JSON.parse(fields.data)];
    }
  }
}

async function* texts(reader) {
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

/** What a line is about: a connection and its user, or what a message was for. */
function subject({ type, user, connection, kind, to }) {
  if (type !== 'message') return [user === undefined ? '' : userLink(user), connection ? connectionLink(connection) : ''];
  return [kind === 'user' ? userLink(to) : kind === 'connection' ? '' : to ?? 'everybody', kind === 'connection' ? connectionLink(to) : ''];
}

export function tail(root, signal) {
  const [problem, which, body] = [trouble(), h('span', { class: 'muted' }), h('tbody')];
  const search = h('input', { type: 'search', placeholder: 'user, id, event, …', autocomplete: 'off', 'aria-label': 'Show only rows with', oninput: () => [...body.rows].forEach(sift) });
  const stop = h('button', { type: 'button', 'aria-pressed': 'false', onclick: () => hold(!paused) }, 'Pause');
  let [paused, missed] = [false, 0];
  const hold = (on) => {
    paused = on;
    stop.setAttribute('aria-pressed', on);
    stop.textContent = on ? 'Go on' : 'Pause';
    if (!on && missed) note(`${plural(missed, 'row')} not shown during the pause`);
    missed = 0;
  };
  const sift = (row) => { row.hidden = !row.textContent.toLowerCase().includes(search.value.toLowerCase()); };
  const add = (row) => {
    if (paused) return void (missed += 1);
    sift(row);
    body.prepend(row);
    while (body.rows.length > ROWS) body.lastChild.remove();
  };
  const note = (text) => add(h('tr', null, h('td'), h('td', { colspan: '5', class: 'muted' }, text)));
  const happened = (it) => {
    const [label, kind, detail] = KINDS[it.type] ?? [it.type, '', JSON.stringify];
    const [user, connection] = subject(it);
    add(h('tr', null, [h('time', { datetime: it.at, class: 'muted' }, new Date(it.at).toLocaleTimeString('en-GB')), badge(label, kind), user, connection, it.namespace ?? '', detail(it)].map((cell) => h('td', null, cell))));
  };
  root.append(heading('Tail', which, h('form', { class: 'inline', onsubmit: (event) => event.preventDefault() }, search, stop, h('button', { type: 'button', onclick: () => body.replaceChildren() }, 'Clear'))), problem,
    h('div', { class: 'table tail', role: 'region', 'aria-label': 'What happens', tabindex: '0' },
      h('table', null, h('thead', null, h('tr', null, ['Time', 'What', 'User', 'Connection', 'Namespace', 'Details'].map((name) => h('th', { scope: 'col' }, name)))), body)));
  if (!may('read')) return problem.show(new Error('This key lacks the scope "read", so nothing of what happens can be shown.'));
  follow();

  async function follow() {
    for (let again = false; !signal.aborted; again = true) {
      try {
        const response = await open('GET', 'tail', { signal });
        problem.show(null);
        if (again) note('The stream began anew: what happened in between is not shown');
        for await (const [name, data] of eventsOf(response)) {
          if (name === 'hello') which.textContent = `of the node ${data.nodeId} alone`;
          else if (name === 'dropped') note(`${plural(data.count, 'happening')} dropped: more than this page takes`);
          else happened(data);
        }
      } catch (error) {
        if (signal.aborted) return;
        problem.show(error.status === 404 ? new Error('The tail is not available on this node.') : error);
      }
      await pause(PAUSE, signal);
    }
  }
}
