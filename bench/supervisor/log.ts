import type { Logger } from '../../src/ports.ts';

/** Nothing is expected to go wrong. */
export const log: Logger = { debug() {}, info() {}, warn: console.error, error: console.error };
