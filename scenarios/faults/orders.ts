import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';

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

  /** In which process the order has happened, and when, as `Date.now` tells it; null if it has not. */
  fired(): { readonly pid: number; readonly at: number } | null {
    const stat = statSync(this.#fired, { throwIfNoEntry: false });
    if (stat === undefined) return null;
    return { pid: Number(readFileSync(this.#fired, 'utf8').trim().split(' ').at(-1)), at: stat.mtimeMs };
  }

  get #fired(): string {
    return `${this.#file}.fired`;
  }
}
