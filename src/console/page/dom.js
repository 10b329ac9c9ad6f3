// Elements, times, numbers, tables, dialogs. Texts become text nodes, never HTML.

/** An element. `on…` props are listeners, `class` and other names attributes; false and null leave an attribute out. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value') element.value = value;
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const whole = new Intl.NumberFormat('en');
export const count = (number) => whole.format(number);
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? '' : 's'}`;

/** How long it is from then until now, or the other way round: "42 s", "3 min", "5 h", "2 d". */
export function span(time) {
  const seconds = Math.abs(Date.now() - new Date(time)) / 1000;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

/** A time as a span, with the time itself on hover. */
export const ago = (time) => (time ? h('time', { datetime: time, title: time }, span(time)) : '–');

export const badge = (text, kind = '') => h('span', { class: `badge ${kind}` }, text);

/** A link to a user's view; of a guest, the word. */
export const userLink = (user) => (user === null || user === undefined ? h('span', { class: 'muted' }, 'guest') : h('a', { href: `#/users/${encodeURIComponent(user)}` }, user));
export const connectionLink = (id) => h('a', { class: 'mono', href: `#/connections/${encodeURIComponent(id)}` }, id);

/** A control with its label above it. */
export const field = (label, control, props) => h('label', { class: 'field', ...props }, h('span', null, label), control);

export const heading = (title, ...rest) => h('div', { class: 'heading' }, h('h1', null, title), ...rest);

/** Runs `work` now and every `ms` until `signal`; the next run begins after the last has ended. A failure goes to `failed`. */
export async function every(ms, signal, work, failed = () => {}) {
  while (!signal.aborted) {
    try {
      await work();
      if (!signal.aborted) failed(null);
    } catch (error) {
      if (!signal.aborted) failed(error);
    }
    await pause(ms, signal);
  }
}

/** Resolves after so long, or when `signal` says so. */
export const pause = (ms, signal) => new Promise((resolve) => {
  const done = () => {
    clearTimeout(timer);
    signal.removeEventListener('abort', done);
    resolve();
  };
  const timer = setTimeout(done, ms);
  signal.addEventListener('abort', done);
});

/** A place for what went wrong, empty while nothing has. */
export function trouble() {
  const element = h('p', { class: 'trouble', role: 'alert', hidden: true });
  return Object.assign(element, {
    show(error) {
      element.hidden = !error;
      element.textContent = error ? error.message : '';
    },
  });
}

/** Says what came of an action, for some seconds. */
export function notice(text, kind = 'ok') {
  const element = h('div', { class: `notice ${kind}` }, text);
  document.getElementById('notices').append(element);
  setTimeout(() => element.remove(), kind === 'ok' ? 5000 : 10000);
}

/** Runs an action and says what came of it. Returns whether it was done. */
export async function attempt(action) {
  try {
    const said = await action();
    if (said) notice(said);
    return true;
  } catch (error) {
    notice(error.message, 'bad');
    return false;
  }
}

/** A dialog with fields. Calls `done` with their values when it is agreed to, and stays open if that fails. */
export function ask({ title, text, fields = [], agree, danger = false, done }) {
  const problem = trouble();
  const dialog = h('dialog', { 'aria-label': title, onclose: () => dialog.remove() },
    h('form', {
      async onsubmit(event) {
        event.preventDefault();
        try {
          await done(Object.fromEntries(fields.map(({ name, control }) => [name, control.value])));
          dialog.close();
        } catch (error) {
          problem.show(error);
        }
      },
    },
    h('h2', null, title), text && h('p', null, text), fields.map(({ label, control }) => field(label, control)), problem,
    h('div', { class: 'actions' },
      h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel'),
      h('button', { class: danger ? 'danger' : 'primary' }, agree))));
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * A table that is updated in place, so that the focus stays where it is. `columns`: {name, cell(row), right?, once?}; a cell is
 * a text or an element, and is made once for each row if `once`. `key(row)` tells rows apart.
 */
export function table({ columns, key, empty, label }) {
  const body = h('tbody');
  const none = h('p', { class: 'empty' }, empty);
  const known = new Map();
  const wrap = h('div', { class: 'table', role: 'region', 'aria-label': label, tabindex: '0' },
    h('table', null, h('thead', null, h('tr', null, columns.map(({ name, right }) => h('th', { class: right ? 'right' : null, scope: 'col' }, name)))), body), none);
  const make = (row) => ({ element: h('tr', null, columns.map(({ right }) => h('td', { class: right ? 'right' : null }))), row });
  const fill = (entry, row, fresh) => columns.forEach((column, i) => {
    if (column.once && !fresh) return;
    const [cell, now] = [entry.element.cells[i], column.cell(row)];
    const same = now instanceof Node ? cell.firstChild?.isEqualNode(now) : cell.textContent === String(now);
    if (!same) cell.replaceChildren(now);
  });
  const update = (rows) => {
    none.hidden = rows.length > 0;
    const keys = new Set(rows.map(key));
    for (const [one, entry] of known) {
      if (keys.has(one)) continue;
      entry.element.remove();
      known.delete(one);
    }
    rows.forEach((row, i) => {
      const entry = known.get(key(row)) ?? make(row);
      fill(entry, row, !known.has(key(row)));
      known.set(key(row), entry);
      if (body.children[i] !== entry.element) body.insertBefore(entry.element, body.children[i] ?? null);
    });
  };
  update([]);
  return Object.assign(wrap, { update });
}
