import type { Clock, Logger } from '../src/ports.ts';

/** What happened in a run, in order, and what must never have. Two runs are the same if and only if their digests are. */
export class Trace {
  readonly #clock: Clock;
  readonly #keep: number;
  readonly #lines: string[] = [];
  #low = 0x811c9dc5;
  #high = 0x1234567;
  #events = 0;
  readonly #violations: string[] = [];

  /** Keeps the last `keep` events to be read; the digest is of all. */
  constructor(clock: Clock, keep = 200) {
    this.#clock = clock;
    this.#keep = keep;
  }

  get events(): number {
    return this.#events;
  }

  /** What must never be and was: a run with any has failed. */
  get violations(): readonly string[] {
    return this.#violations;
  }

  get digest(): string {
    return `${this.#events}-${(this.#high >>> 0).toString(16)}${(this.#low >>> 0).toString(16)}`;
  }

  get lines(): readonly string[] {
    return this.#lines.slice(-this.#keep);
  }

  add(who: string, what: string): void {
    const line = `${this.#clock.now().toFixed(3).padStart(12)} ${who}: ${what}`;
    this.#events += 1;
    for (let at = 0; at < line.length; at += 1) {
      const unit = line.charCodeAt(at);
      this.#low = Math.imul(this.#low ^ unit, 0x01000193);
      this.#high = Math.imul(this.#high ^ unit, 0x5bd1e995) + 1;
    }
    this.#lines.push(line);
    if (this.#lines.length > 2 * this.#keep + 64) this.#lines.splice(0, this.#lines.length - this.#keep);
  }

  violated(what: string): void {
    this.#violations.push(what);
    this.add('VIOLATION', what);
  }

  /** What a process logs is part of what happened. */
  logger(who: string): Logger {
    const write = (level: string) => (fields: object, message: string) => {
      const error = (fields as { error?: unknown }).error;
      const detail = error === undefined ? '' : ` (${error instanceof Error ? error.message : error})`;
      this.add(who, `${level} ${message}${detail}`);
    };
    return { debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error') };
  }
}
