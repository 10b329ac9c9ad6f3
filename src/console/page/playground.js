// Test clients: each connects as a user, as an application's page would, and shows what it is sent. They stay when the view is left.

import { call, ended, may, path, session } from './api.js';
import { attempt, badge, connectionLink, field, h, heading, notice, trouble, userLink } from './dom.js';
import { argument, needs, sendForm } from './send.js';
import { Client } from './socket.js';

const KEPT_LINES = 200;
/** How long after a lost connection the next one is begun. */
const PAUSE = 1000;

const place = h('div', { class: 'clients' });
const open = new Set();

function address() {
  const { path, port } = session.settings;
  const host = port ? `${location.hostname}:${port}` : location.host;
  return `${location.protocol === 'https:' ? 'wss' : 'ws'}://${host}${path}/`;
}

/** A token that the node signs for a test user. */
async function tokenFor(user, role) {
  try {
    return (await call('POST', path`users/${user}/sessions`, { username: user, ...(role && { role }) })).token;
  } catch (error) {
    throw error.status === 404 ? new Error('This node signs no tokens (auth.jwt.secret): paste one of your own.') : error;
  }
}

/** A test client, its card and its life. `given`: a token to use instead of one that the node signs; guests have none. */
class TestClient {
  constructor({ user, role, namespace, deviceId, given, guest }) {
    this.token = async () => (guest ? undefined : given || tokenFor(user, role));
    Object.assign(this, { namespace, deviceId, name: guest ? 'guest' : user });
    this.state = h('span', { class: 'badges' });
    this.lines = h('ol', { class: 'log', 'aria-label': `What ${this.name} got and sent`, tabindex: '0' });
    this.again = h('button', { class: 'small', onclick: () => this.connect() }, 'Connect');
    this.stop = h('button', { class: 'small', onclick: () => this.close() }, 'Close');
    this.backend = h('div', { class: 'side' });
    this.card = h('section', { class: 'panel client', 'aria-label': `Test client ${this.name}` },
      h('div', { class: 'heading' }, h('h2', null, this.name, namespace !== '/' && h('span', { class: 'muted' }, ` in ${namespace}`)), this.state,
        h('div', { class: 'actions' }, this.again, this.stop, h('button', { class: 'small', onclick: () => this.remove() }, 'Remove'))),
      h('div', { class: 'sides' }, this.backend, h('div', { class: 'side' }, h('h3', null, 'As the client'), this.emitForm())),
      this.lines);
    open.add(this);
    place.prepend(this.card);
    this.connect();
  }

  show(text, kind, ...more) {
    this.state.replaceChildren(badge(text, kind), ...more);
    this.again.hidden = this.live;
    this.stop.hidden = !this.live;
  }

  line(mark, text, kind = '') {
    const time = new Date().toLocaleTimeString('en-GB');
    this.lines.prepend(h('li', { class: kind }, h('time', { class: 'muted' }, time), h('span', { class: 'mark' }, mark), h('span', null, text)));
    while (this.lines.children.length > KEPT_LINES) this.lines.lastChild.remove();
  }

  async connect() {
    this.live = true;
    this.show('connecting');
    let auth;
    try {
      const token = await this.token();
      auth = { ...(token && { token }), ...(this.deviceId && { deviceId: this.deviceId }) };
    } catch (error) {
      this.live = false;
      return this.show(error.message, 'bad');
    }
    if (!this.live) return;
    this.client = new Client(address(), { namespace: this.namespace, auth, heard: (what, ...rest) => this[what](...rest) });
  }

  connected() {
    this.show('connected');
  }

  refused({ message }) {
    this.live = false;
    this.show(`refused: ${message}`, 'bad');
    this.line('end', message, 'bad');
  }

  event(name, args) {
    this.line('got', `${name} ${args.map((arg) => JSON.stringify(arg)).join(' ')}`, name === 'forceDisconnect' ? 'bad' : 'in');
    if (name === 'ready') this.ready(args[0]);
    if (name === 'tokenExpiring') this.refresh();
  }

  ready({ connectionId, userId }) {
    this.show('connected', 'ok', connectionLink(connectionId));
    const to = userId === null ? path`connections/${connectionId}/events` : path`users/${userId}/events`;
    const kick = () => attempt(async () => ended(userId === null
      ? await call('DELETE', path`connections/${connectionId}`)
      : await call('POST', path`users/${userId}/disconnect`, {})));
    this.backend.replaceChildren(
      h('h3', null, 'As a backend, to ', userLink(userId)),
      sendForm(to, {
        body: userId === null ? {} : { namespace: this.namespace },
        more: h('button', { class: 'danger', type: 'button', onclick: kick, ...needs('disconnect') }, `Kick ${this.name}`),
      }));
  }

  async refresh() {
    await attempt(async () => {
      const [answer] = await this.client.emit('refreshToken', await this.token());
      this.line('sent', `refreshToken: ${JSON.stringify(answer)}`);
    });
  }

  /** A stock client comes back from a closed transport, and stays away after a DISCONNECT packet. */
  ended(byServer) {
    if (!this.live) return;
    this.line('end', byServer ? 'disconnected by the server' : 'connection lost; coming back', 'bad');
    this.live = !byServer;
    this.show(byServer ? 'disconnected' : 'connection lost', 'bad');
    if (this.live) setTimeout(() => this.live && this.connect(), PAUSE);
  }

  close() {
    this.live = false;
    this.client?.close();
    this.show('closed');
  }

  remove() {
    this.close();
    this.card.remove();
    open.delete(this);
  }

  emitForm() {
    const event = h('input', { value: 'devices', required: true, autocomplete: 'off' });
    const data = h('input', { class: 'mono', autocomplete: 'off', spellcheck: 'false' });
    return h('form', {
      class: 'send',
      onsubmit: async (submitted) => {
        submitted.preventDefault();
        if (!this.live) return notice('This client is not connected.', 'bad');
        const sent = argument(data.value);
        const args = sent === undefined ? [] : [sent];
        this.line('sent', `${event.value} ${args.map((arg) => JSON.stringify(arg)).join(' ')}`);
        const answer = await this.client?.emit(event.value, ...args);
        this.line('ack', `${event.value}: ${answer?.map((arg) => JSON.stringify(arg)).join(' ')}`);
      },
    },
    field('Event', event), field('Data', data, { class: 'field wide' }), h('button', null, 'Emit'));
  }
}

/** A client of a made-up user, as one press of a button. */
export function connectAs(user) {
  new TestClient({ user, namespace: '/' });
  location.hash = '#/playground';
}

export function closeAll() {
  for (const client of [...open]) client.remove();
}

export function playground(root) {
  const problem = trouble();
  const input = (props) => h('input', { autocomplete: 'off', spellcheck: 'false', ...props });
  const [user, role, namespace, device, token] = [input({ value: 'alice', maxlength: '255' }), input(), input({ value: '/', required: true }), input({ maxlength: '128' }), input({ class: 'mono' })];
  const form = h('form', {
    class: 'panel send',
    onsubmit(event) {
      event.preventDefault();
      if (!user.value && !token.value && !may('admin')) return problem.show(new Error('Name a user, or paste a token.'));
      problem.show(null);
      new TestClient({ user: user.value || 'token', role: role.value, namespace: namespace.value, deviceId: device.value, given: token.value, guest: !user.value && !token.value });
    },
  },
  field('User; a guest if empty', user), field('Role', role, { class: 'field narrow' }), field('Namespace', namespace, { class: 'field narrow' }), field('Device', device, { class: 'field narrow' }),
  field(may('admin') ? 'Token; signed by the node if empty' : 'Token', token), h('button', { class: 'primary' }, 'Connect'));
  root.append(heading('Playground', h('span', { class: 'muted' }, 'clients of this page, over a WebSocket')), problem, form, place);
  if (!may('admin')) problem.show(new Error('This key lacks the scope "admin", so the node signs no tokens for it: paste one.'));
}
