import type { Logger } from '../../src/ports.ts';

/** Others may use this machine, and its processes stand still meanwhile. */
export const limits = { lostAfterMilliseconds: 120_000 };

/** Nothing is expected to go wrong. */
export const log: Logger = { debug() {}, info() {}, warn: console.error, error: console.error };
