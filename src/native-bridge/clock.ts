import type { Clock } from '../ports.ts';
import { addon } from './addon.ts';

/** Node runs a timer of more milliseconds than this at once. */
const longestTimer = 2 ** 31 - 1;

/** The time of this host: CLOCK_MONOTONIC, the same in all its processes and in the intervals of native work. */
export const systemClock: Clock = {
  now: () => addon.monotonicMilliseconds(),
  after(milliseconds, callback) {
    let timer: NodeJS.Timeout;
    // A long wait is made of several timers.
    const wait = (left: number): void => {
      const step = Math.min(left, longestTimer);
      timer = setTimeout(() => (left > step ? wait(left - step) : callback()), step);
    };
    wait(milliseconds);
    return () => clearTimeout(timer);
  },
};
