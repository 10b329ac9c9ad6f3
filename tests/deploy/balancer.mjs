// deploy/haproxy/haproxy.cfg as it is shipped, but for addresses.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Running, freePort, writeScratch } from '../js/harness.mjs';

const CONFIG = fileURLToPath(new URL('../../deploy/haproxy/haproxy.cfg', import.meta.url));

/** Debian's HAProxy in front of ports of the loopback; `url` is where clients connect. */
export class Balancer extends Running {
  /** `env` is what docker-compose.yml gives it. With `checks`, servers are asked for /readyz; without, they are taken to be ready. */
  static async start(ports, { env, checks = false }) {
    const [port, operators, health] = [await freePort(), await freePort(), await freePort()];
    let text = readFileSync(CONFIG, 'utf8');
    const put = (from, to) => {
      assert.match(text, from);
      text = text.replace(from, to);
    };
    put(/bind :8080/, `bind 127.0.0.1:${port}`);
    put(/bind :8081/, `bind 127.0.0.1:${operators}`);
    put(/bind 127.0.0.1:8082/, `bind 127.0.0.1:${health}`);
    put(/^resolvers[^]*?\n\n/m, '');
    if (checks) put(/^ *http-check connect port 9000$/gm, '');
    else put(/^ *(option httpchk|http-check .*)$/gm, '');
    put(/server-template \S+ \S+ \S+ (check inter \S+ fall \d+ rise \d+).*/g, (_, check) =>
      ports.map((to, i) => `server node${i} 127.0.0.1:${to} ${checks ? check : ''}`).join('\n    '));
    const balancer = new Balancer('haproxy', ['-db', '-f', writeScratch('cfg', text)], { env, name: 'haproxy' });
    balancer.url = `http://127.0.0.1:${port}`;
    return balancer;
  }
}
