import type { Clock } from '../ports.ts';
import { addon } from './addon.ts';

/** CLOCK_MONOTONIC, which all processes of a host share, so that their timelines fit together. */
export const systemClock: Clock = {
  now: () => addon.monotonicMilliseconds(),
  after(milliseconds, callback) {
    const timer = setTimeout(callback, milliseconds);
    return () => clearTimeout(timer);
  },
};
