import type { Clock, Logger } from '../src/ports.ts';

/** The events of a run, in order, and the invariants that it violated. Equal digests mean equal runs. */
export class Trace {
  readonly #clock: Clock;
  readonly #keep: number;
  readonly #lines: string[] = [];
  #low = 0x811c9dc5;
  #high = 0x1234567;
  #events = 0;
  readonly #violations: string[] = [];

  /** Keeps the last `keep` events as text; the digest covers all. */
  constructor(clock: Clock, keep = 200) {
    this.#clock = clock;
    this.#keep = keep;
  }

  get events(): number {
    return this.#events;
  }

  /** Violated invariants; a run with any has failed. */
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

  /** A logger that makes a process's log lines events of the run. */
  logger(who: string): Logger {
    const write = (level: string) => (fields: object, message: string) => {
      const error = (fields as { error?: unknown }).error;
      const detail = error === undefined ? '' : ` (${error instanceof Error ? error.message : error})`;
      this.add(who, `${level} ${message}${detail}`);
    };
    return { debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error') };
  }
}
