// Waiting for conditions, always with a bound and always saying what was waited for.

/** Resolves as `promise` does; after `ms` it fails and says what was expected. */
export function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`expected within ${ms} ms: ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/**
 * Repeats `check` until it neither throws nor returns false, and resolves to what it returned.
 * After `ms` it fails with `what` and with the last thing that was wrong.
 */
export async function eventually(what, check, { ms = 5000, every = 50 } = {}) {
  const deadline = Date.now() + ms;
  const late = Symbol('late');
  let wrong = 'nothing: it did not come to an end';
  for (;;) {
    let timer;
    try {
      const end = new Promise((resolve) => {
        timer = setTimeout(resolve, Math.max(deadline - Date.now(), 1), late);
      });
      const value = await Promise.race([check(), end]);
      if (value !== late && value !== false) return value;
      if (value === false) wrong = 'the condition is false';
    } catch (error) {
      wrong = error.message;
    } finally {
      // Also where the check itself has thrown: a timer that is left keeps the process of the tests.
      clearTimeout(timer);
    }
    if (Date.now() >= deadline) throw new Error(`expected within ${ms} ms: ${what}\n  the last look said: ${wrong}`);
    await pause(every);
  }
}

/** Lets time pass: for pacing a loop and for injected faults, never in place of a condition. */
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Resolves when this machine's clock is past `time` (milliseconds since 1970): for what is a matter of the clock alone, such
 * as two tokens that are to differ in `iat`.
 */
export async function clockPasses(time) {
  while (Date.now() <= time) await pause(Math.max(time - Date.now(), 1));
}

/** A seeded generator of numbers in [0, 1) (mulberry32), so that a random run can be repeated. */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
