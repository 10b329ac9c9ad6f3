// Contract 3: with revokeTokens nobody who was in the middle of a handshake slips in behind a disconnect.

import assert from 'node:assert/strict';
import { connectPacket, eventually, onBothRegistries, pause, RawSocket, seeded, segment, someone, test, token, within } from './harness.mjs';

const CLIENTS = 12;
const AT_ONCE = 8;
const CHUNK = 'x'.repeat(400_000);
// Room for what a client that reads nothing is sent, so that the call ends it and not the limit.
const env = { SWITCHBOARD_LIMITS__SEND_QUEUE_BYTES: '64MB', SWITCHBOARD_LIMITS__WRITE_DEADLINE: '120s', SWITCHBOARD_LIMITS__CONNECTS_PER_SECOND_PER_USER: '0' };

/** A client that comes back again and again with one token, whatever it is told. */
class Returner {
  constructor(url, given, game) {
    Object.assign(this, { url, given, game, ready: 0, answeredAt: Infinity });
  }

  /** Comes and goes until it has been refused with a CONNECT packet that it sent after `answeredAt`; resolves to the message. */
  async run() {
    while (!this.game.over) {
      const { sent, said, raw } = await this.attempt();
      if (said === 'ready') {
        this.ready += 1;
        // What it sent after the answer is never good; what it sent before may have been answered before, and is ended.
        if (sent > this.answeredAt) throw new Error('it got in with a CONNECT packet that it sent after the disconnect had answered');
        await this.stay(raw);
      } else if (said !== 'closed' && sent > this.answeredAt) {
        raw.ws.terminate();
        return said;
      } else {
        raw.ws.terminate();
      }
    }
  }

  /** One handshake: `said` is `ready`, the message of a refusal, or `closed`. */
  async attempt() {
    const raw = new RawSocket(this.url);
    let sent = -Infinity;
    try {
      await raw.open();
      sent = performance.now();
      raw.ws.send(connectPacket({ token: this.given }));
      const [packet, message] = await raw.until(/^(?:44\{"message":"(.*)","data":\{"code":"[a-z_]+"\}\}|42\["ready",.*)$/s, { ms: 20000 });
      return { raw, sent, said: packet.startsWith('44') ? message : 'ready' };
    } catch (error) {
      if (raw.code === undefined) throw error;
      return { raw, sent, said: 'closed' };
    }
  }

  /** Stays connected for a moment and leaves, unless the disconnect answers meanwhile: then the server has to end it. */
  async stay(raw) {
    const moment = pause(this.game.random() * 30);
    await Promise.race([moment, raw.closed]);
    if (raw.code !== undefined) return;
    if (this.answeredAt === Infinity) return raw.ws.terminate();
    await within(10000, 'the server ends a connection that was there when the disconnect answered', raw.closed);
  }
}

/** A game ends with the test, also when that fails: nobody comes back then. */
const startGame = (seed, owned) => {
  const game = { random: seeded(seed), over: false };
  owned(() => (game.over = true));
  return game;
};

/** Everybody of one user, about to be disconnected. `come` is how many have been let in before it goes on. */
async function crowd(world, user, game, { clients = CLIENTS, come = CLIENTS / 2 } = {}) {
  const given = token(user);
  const returners = Array.from({ length: clients }, (_, i) => new Returner(i % 2 ? world.door.url : world.desk.url, given, game));
  const runs = returners.map((one) => one.run());
  // Awaited below; a failure before that is not to end the process.
  for (const run of runs) run.catch(() => {});
  await eventually(`${come} clients of ${user} have been let in`, async () => returners.reduce((sum, one) => sum + one.ready, 0) >= come, { ms: 20000, every: 5 });
  return {
    /** The disconnect has answered: from here on nobody gets in. */
    async answered() {
      const now = performance.now();
      for (const one of returners) one.answeredAt = now;
      for (const at of [world.door, world.desk]) {
        assert.deepEqual((await at.api.user(user)).connections, [], 'expected nobody to be listed once disconnect has answered');
      }
      const said = await within(25000, 'every client has been refused', Promise.all(runs));
      assert.deepEqual([...new Set(said)], ['Token revoked']);
      assert.equal((await world.api.user(user)).online, false, 'expected nobody to be online after everybody has tried again');
    },
  };
}

/** A client of the user's that reads nothing, with a send path that is full. */
async function stalled(world, user) {
  const raw = new RawSocket(world.door.url);
  await raw.connect({ token: token(user) });
  raw.stall();
  for (let i = 0; i < 20; i += 1) await world.api.send(user, 'fill', CHUNK);
  return raw;
}

onBothRegistries((world) => {
  const rounds = world.registry === 'redis' ? 200 : 60;
  test(`${CLIENTS} clients come back in a loop with one token while disconnect with revokeTokens runs, ${rounds} times over`, { ms: 300000 }, async ({ note, owned }) => {
    const seed = Number(process.env.SWITCHBOARD_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
    note(`seed ${seed}: repeat with SWITCHBOARD_TEST_SEED=${seed}`);
    const game = startGame(seed, owned);
    const started = Date.now();
    let next = 0;
    let met = 0;
    const worker = async () => {
      while (next < rounds) {
        const round = (next += 1);
        const user = someone('race');
        try {
          const lame = round % 40 === 0 ? await stalled(world, user) : undefined;
          const all = await crowd(world, user, game);
          await pause(game.random() * 20);
          const answer = await (round % 2 ? world.door : world.desk).api.disconnect(user, { revokeTokens: true });
          assert.deepEqual(answer.remaining, []);
          met += answer.disconnected;
          await all.answered();
          await lame?.seesClose();
        } catch (error) {
          next = rounds;
          throw new Error(`seed ${seed}, round ${round}${round % 40 ? '' : ', with a stalled client'}: ${error.message}`);
        }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    note(`${rounds} rounds in ${Date.now() - started} ms; the disconnects met ${met} connections`);
    assert.ok(met >= rounds, `expected the disconnects to have met connections, they met ${met} in ${rounds} rounds`);
  });
}, { env });

test('the same with a node that stands still for three seconds in the middle', { ms: 120000 }, async ({ node, redis, owned }) => {
  const store = await redis();
  const [door, desk] = await Promise.all(['door', 'desk'].map((name) => node({ redis: store, name })));
  const world = { door, desk, api: desk.api };
  const game = startGame(7, owned);
  const crowds = await Promise.all(Array.from({ length: 6 }, async () => {
    const user = someone('still');
    return { user, all: await crowd(world, user, game) };
  }));
  door.signal('SIGSTOP');
  let answers;
  try {
    const calls = Promise.all(crowds.map(({ user }) => desk.api.request('POST', `/v1/users/${segment(user)}/disconnect`, { json: { revokeTokens: true } })));
    await pause(3000);
    door.signal('SIGCONT');
    answers = await calls;
  } finally {
    door.signal('SIGCONT');
  }
  for (const [i, { user, all }] of crowds.entries()) {
    const answer = answers[i];
    assert.ok([200, 202].includes(answer.status), `expected 200 or 202, got ${answer.status}: ${answer.text}`);
    // What could not be confirmed is named, and ends as soon as its node goes on.
    if (answer.status === 202) {
      assert.ok(answer.json.remaining.length > 0, answer.text);
      await eventually('what remained is gone', async () => (await desk.api.user(user)).online === false, { ms: 10000 });
    }
    await all.answered();
  }
});
