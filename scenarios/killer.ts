import { setTimeout as sleep } from 'node:timers/promises';
import { VerificationError } from '../src/errors.ts';
import type { Progress, UpdateReport } from '../src/index.ts';
import { systemClock } from '../src/native-bridge/clock.ts';
import { formatBytes } from '../src/units.ts';

/** Of what is received, the part that has to come after the blow for a run to show something. */
const leastPartAfterwards = 0.1;
/** How long ranks that were stopped stay so at least: what they told before gets here meanwhile. */
const standstillMilliseconds = 100;
/** How long they go on if nothing had come: enough to be told of one piece. */
const moveMilliseconds = 20;
const mostMoves = 20;

export interface Aim {
  readonly victims: readonly number[];
  readonly receivers: readonly number[];
}

/**
 * Kills processes in the middle of what others receive from them, however fast that is: it holds the receivers up, and
 * lets them go on for moments only until one of them has something.
 */
export class Killer {
  /** Receivers by rank. */
  readonly #received = new Map<number, number>();
  readonly #ranks: readonly number[];
  #aim: Aim | null = null;
  #blow: Promise<void> | null = null;
  #struckAt = Number.POSITIVE_INFINITY;
  #bytesBefore = 0;

  /** `ranks` are those of the receivers. */
  constructor(ranks: readonly number[]) {
    this.#ranks = ranks;
  }

  /** It strikes from now on; `aim` has pids. */
  aim(aim: Aim): void {
    this.#aim = aim;
  }

  progress({ activity, rank, doneBytes }: Progress): void {
    if (this.#aim === null || activity !== 'receive' || !this.#ranks.includes(rank)) return;
    this.#received.set(rank, doneBytes);
    this.#blow ??= this.#strike(this.#aim);
  }

  /** Bytes that had been received when it struck. Throws if too little came afterwards to show anything. */
  async check({ timelines, receivedBytes }: UpdateReport): Promise<number> {
    await this.#blow;
    const ends = timelines.flatMap(({ read }) => [...read].filter((_, at) => at % 3 === 2));
    const afterwards = ends.filter((end) => end > this.#struckAt).length;
    if (afterwards > ends.length * leastPartAfterwards) return this.#bytesBefore;
    throw new VerificationError(
      `the source was still there when ${formatBytes(receivedBytes)} had been received, so this run shows nothing; ` +
        'make --size larger',
    );
  }

  get #sum(): number {
    return [...this.#received.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  /** If all is here before it knows of anything, it strikes late: `check` sees that. */
  async #strike({ victims, receivers }: Aim): Promise<void> {
    for (let move = 0; move < mostMoves; move += 1) {
      signalAll(receivers, 'SIGSTOP');
      await sleep(standstillMilliseconds);
      if (this.#sum > 0) break;
      signalAll(receivers, 'SIGCONT');
      await sleep(moveMilliseconds);
    }
    this.#struckAt = systemClock.now();
    this.#bytesBefore = this.#sum;
    signalAll(victims, 'SIGKILL');
    signalAll(receivers, 'SIGCONT');
  }
}

function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // It is gone already.
    }
  }
}
