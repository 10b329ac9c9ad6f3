// A counter with its curve of the last minutes.

import { count, h } from './dom.js';

const [WIDTH, HEIGHT] = [300, 64];

export function counter(label) {
  const svg = document.getElementById('curve').content.firstElementChild.cloneNode(true);
  const [area, line] = svg.children;
  const number = h('strong', null, '–');
  const peak = h('span', { class: 'muted' });
  const tile = h('section', { class: 'tile', 'aria-label': label }, h('h2', null, label), h('div', { class: 'now' }, number, peak), svg);
  /** `samples`: `[time in ms, value]`, the oldest first; the curve shows `window` ms until the last. */
  const show = (samples, window) => {
    if (!samples.length) return;
    const [last, value] = samples.at(-1);
    const most = Math.max(...samples.map(([, value]) => value));
    number.textContent = count(value);
    peak.textContent = `peak ${count(most)}`;
    svg.setAttribute('aria-label', `${label}: ${value} now, ${most} at the most`);
    const points = samples.map(([at, value]) => {
      const x = WIDTH * (1 - (last - at) / window);
      const y = HEIGHT - 2 - (HEIGHT - 8) * (most ? value / most : 0);
      return [x.toFixed(1), y.toFixed(1)];
    });
    // A count holds until the next is known: steps, not slopes.
    const steps = points.map(([x, y], i) => (i ? `H${x}V${y}` : `M${x} ${y}`)).join('');
    line.setAttribute('d', steps);
    area.setAttribute('d', `${steps}V${HEIGHT}H${points[0][0]}Z`);
  };
  return Object.assign(tile, { show });
}
