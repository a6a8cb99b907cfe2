import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { stateOf } from '../../src/processes/is-running.ts';

/** The file of `WEIGHTCAST_FAULTS=@FILE`: what is to happen in the processes that have it in their environment. */
export class FaultOrders {
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  get environment(): Readonly<Record<string, string>> {
    return { WEIGHTCAST_FAULTS: `@${this.#file}` };
  }

  /** Takes the place of what was given before and has not happened. */
  give(...orders: readonly string[]): void {
    this.clear();
    writeFileSync(`${this.#file}.new`, orders.join('\n'));
    renameSync(`${this.#file}.new`, this.#file);
  }

  clear(): void {
    for (const path of [this.#file, this.#fired]) rmSync(path, { force: true });
  }

  /**
   * In which process the order has happened, and when, as `Date.now` tells it; null if it has not. A process that is to stop
   * has stopped then: a SIGCONT that came before its SIGSTOP would leave it stopped for ever.
   */
  fired(): { readonly pid: number; readonly at: number } | null {
    const stat = statSync(this.#fired, { throwIfNoEntry: false });
    if (stat === undefined) return null;
    const [order, pid] = readFileSync(this.#fired, 'utf8').trim().split(' ');
    if (/:stop(@|$)/.test(order!) && !['T', null].includes(stateOf(Number(pid)))) return null;
    return { pid: Number(pid), at: stat.mtimeMs };
  }

  get #fired(): string {
    return `${this.#file}.fired`;
  }
}
