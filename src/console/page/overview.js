// The fleet: its counters with curves, and its nodes.

import { get, may, session } from './api.js';
import { counter } from './curve.js';
import { connectAs } from './playground.js';
import { ago, badge, count, every, h, heading, table, trouble } from './dom.js';

const POLL = 2000;
const WINDOW = 10 * 60 * 1000;
/** What a curve shows at the least: a shorter time at its right end is hard to see. */
const SHORTEST = 60 * 1000;

/** What was counted since the sign-in: `[time, {connections, users, nodes}]`. */
const samples = [];
let nodes = [];
let failure = null;
const watchers = new Set();

/** Counts the fleet for as long as somebody is signed in, whatever the view: a curve with gaps says nothing. */
export function observe(signal) {
  samples.length = nodes.length = 0;
  if (!may('read')) return;
  every(POLL, signal, async () => {
    const [stats, fleet] = await Promise.all([get('stats'), get('nodes')]);
    samples.push([Date.now(), stats]);
    while (samples[0][0] < Date.now() - WINDOW) samples.shift();
    nodes = fleet.nodes;
  }, (error) => {
    failure = error;
    for (const watcher of watchers) watcher();
  });
}

export function overview(root, signal) {
  const tiles = [['connections', 'Connections'], ['users', 'Users online'], ['nodes', 'Nodes']].map(([name, label]) => [name, counter(label)]);
  const problem = trouble();
  const list = table({
    label: 'Nodes',
    empty: 'No node yet.',
    key: (node) => node.nodeId + node.startedAt,
    columns: [
      { name: 'Node', cell: ({ nodeId }) => h('span', null, nodeId, nodeId === session.me.nodeId && h('span', { class: 'muted' }, ' answers this page')) },
      { name: 'State', cell: (node) => (node.draining ? badge('draining', 'warn') : badge('in service', 'ok')) },
      { name: 'Connections', right: true, cell: (node) => count(node.connections) },
      { name: 'Users', right: true, cell: (node) => count(node.users) },
      { name: 'Version', cell: (node) => node.version },
      { name: 'Up', right: true, cell: (node) => ago(node.startedAt) },
      { name: 'Last heartbeat', right: true, cell: (node) => ago(node.lastHeartbeat) },
    ],
  });
  root.append(heading('Overview', session.settings.apiKey && h('div', { class: 'actions' }, h('button', { class: 'primary', onclick: () => connectAs('alice') }, 'Connect as alice'))), problem, h('div', { class: 'tiles' }, tiles.map(([, tile]) => tile)), h('h2', null, 'Nodes'), list);
  if (!may('read')) return problem.show(new Error('This key lacks the scope "read", so the fleet can\'t be counted.'));
  const show = () => {
    problem.show(failure);
    const shown = Math.max(SHORTEST, samples.length && samples.at(-1)[0] - samples[0][0]);
    for (const [name, tile] of tiles) tile.show(samples.map(([at, stats]) => [at, stats[name]]), shown);
    list.update(nodes);
  };
  watchers.add(show);
  signal.addEventListener('abort', () => watchers.delete(show));
  show();
}
