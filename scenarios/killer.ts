import { setTimeout as sleep } from 'node:timers/promises';
import { VerificationError } from '../src/errors.ts';
import type { Progress, UpdateReport } from '../src/index.ts';
import { systemClock } from '../src/native-bridge/clock.ts';
import { formatBytes } from '../src/units.ts';
import { signalAll } from './signal-all.ts';

/** A run counts only if at least this fraction of the reads ended after the kill. */
const leastFractionAfterKill = 0.1;
/** How long receivers stay stopped before their progress is judged: progress messages in flight arrive meanwhile. */
const stoppedMilliseconds = 100;
/** How long receivers run between two stops: long enough to read one piece. */
const runningMilliseconds = 20;
const mostAttempts = 20;

/** Process ids. */
export interface KillTargets {
  readonly victims: readonly number[];
  readonly receivers: readonly number[];
}

/**
 * Kills processes while others receive from them, however fast that is: once armed, it stops the receivers and lets them
 * run for moments only, until one of them has received something.
 */
export class Killer {
  /** Bytes received, by rank. */
  readonly #received = new Map<number, number>();
  readonly #ranks: readonly number[];
  #targets: KillTargets | null = null;
  #killing: Promise<void> | null = null;
  #killedAt = Number.POSITIVE_INFINITY;
  #bytesBefore = 0;

  /** `ranks`: the ranks that receive. */
  constructor(ranks: readonly number[]) {
    this.#ranks = ranks;
  }

  /** From now on, the first progress of a receiver triggers the kill. */
  arm(targets: KillTargets): void {
    this.#targets = targets;
  }

  progress({ activity, rank, doneBytes }: Progress): void {
    if (this.#targets === null || activity !== 'receive' || !this.#ranks.includes(rank)) return;
    this.#received.set(rank, doneBytes);
    this.#killing ??= this.#kill(this.#targets);
  }

  /** Bytes that had been received before the kill. Throws `VerificationError` if too little was received after it. */
  async check({ timelines, receivedBytes }: UpdateReport): Promise<number> {
    await this.#killing;
    const ends = timelines.flatMap(({ read }) => [...read].filter((_, at) => at % 3 === 2));
    const afterwards = ends.filter((end) => end > this.#killedAt).length;
    if (afterwards > ends.length * leastFractionAfterKill) return this.#bytesBefore;
    throw new VerificationError(
      `the source was killed too late, when ${formatBytes(receivedBytes)} had been received; make --size larger`,
    );
  }

  get #sum(): number {
    return [...this.#received.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  /** May kill too late if everything is received before the first progress arrives; `check` detects that. */
  async #kill({ victims, receivers }: KillTargets): Promise<void> {
    for (let attempt = 0; attempt < mostAttempts; attempt += 1) {
      signalAll(receivers, 'SIGSTOP');
      await sleep(stoppedMilliseconds);
      if (this.#sum > 0) break;
      signalAll(receivers, 'SIGCONT');
      await sleep(runningMilliseconds);
    }
    this.#killedAt = systemClock.now();
    this.#bytesBefore = this.#sum;
    signalAll(victims, 'SIGKILL');
    signalAll(receivers, 'SIGCONT');
  }
}
