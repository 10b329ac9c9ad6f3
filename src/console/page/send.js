// The form that sends an event, to a user, a connection or a room.

import { call, may } from './api.js';
import { attempt, field, h, plural } from './dom.js';

/** JSON where it parses as such, otherwise the text itself; nothing for an empty field. */
export function argument(text) {
  if (!text.trim()) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** What a send answers, in words. */
export function delivered({ connections, nodes, unconfirmed }) {
  const reached = connections ? `Handed to ${plural(connections, 'connection')} on ${plural(nodes, 'node')}` : 'Nobody is there';
  return unconfirmed ? `${reached}; ${plural(unconfirmed, 'node')} did not confirm in time.` : `${reached}.`;
}

/** The form, with `more` behind its button. `to` is a path below v1/; `body`: what is sent beside the fields, in place of the one of the namespace. */
export function sendForm(to, { body: rest, more } = {}) {
  const event = h('input', { value: 'hello', required: true, maxlength: '256', autocomplete: 'off' });
  const data = h('input', { value: '{"from": "console"}', class: 'mono', autocomplete: 'off', spellcheck: 'false' });
  const where = h('input', { value: '/', required: true, autocomplete: 'off' });
  return h('form', {
    class: 'send',
    onsubmit(submitted) {
      submitted.preventDefault();
      const body = { event: event.value, data: argument(data.value), ...(rest ?? { namespace: where.value }) };
      attempt(async () => delivered(await call('POST', to, body)));
    },
  },
  field('Event', event), field('Data, as JSON or text', data, { class: 'field wide' }), !rest && field('Namespace', where, { class: 'field narrow' }),
  h('button', { class: 'primary', ...needs('send') }, 'Send'), more);
}

/** Attributes of a control that calls what `scope` opens: off, with the reason, where the key lacks it. */
export const needs = (scope) => (may(scope) ? {} : { disabled: true, title: `This key lacks the scope "${scope}"` });
