/**
 * What actors may do to the world. An actor gets its ports when it is spawned and touches nothing else, so the
 * same actors run on real devices and, in one process, on simulated ones.
 */

/** Time in milliseconds of a monotonic clock that all processes of one host share. */
export interface Clock {
  now(): number;
  /** Runs `callback` once after `milliseconds`; the returned function cancels it and may be called twice. */
  after(milliseconds: number, callback: () => void): () => void;
}

export interface Random {
  /** Uniform in [0, 1). */
  next(): number;
}

export interface Logger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}
