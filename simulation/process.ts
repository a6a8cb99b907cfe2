import { ActorSystem, type PeerEvent } from '../src/actors/kernel/index.ts';
import type { WeightcastError } from '../src/errors.ts';
import type { Clock, Logger, Random } from '../src/ports.ts';
import type { SimulatedClock } from './clock.ts';
import type { SimulatedNetwork } from './network.ts';
import { turns } from './turns.ts';

/** The clock of one process, whose timers end with the process. */
class ProcessClock implements Clock {
  readonly #clock: Clock;
  readonly #timers = new Set<() => void>();
  #stopped = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  now(): number {
    return this.#clock.now();
  }

  after(milliseconds: number, callback: () => void): () => void {
    if (this.#stopped) return () => {};
    const cancelTimer = this.#clock.after(milliseconds, () => {
      this.#timers.delete(cancel);
      callback();
    });
    const cancel = () => {
      this.#timers.delete(cancel);
      cancelTimer();
    };
    this.#timers.add(cancel);
    return cancel;
  }

  get pending(): number {
    return this.#timers.size;
  }

  stop(): void {
    this.#stopped = true;
    for (const cancel of this.#timers) cancel();
  }
}

export interface ProcessOptions {
  readonly node: string;
  /** The nodes to which it has sessions from the start. */
  readonly peers: readonly string[];
  readonly clock: SimulatedClock;
  readonly network: SimulatedNetwork;
  readonly random: Random;
  readonly log: Logger;
  /** A top-level actor has crashed and is not restarted. */
  readonly onCrash: (error: WeightcastError) => void;
  readonly onPeer?: (event: PeerEvent) => void;
}

/** One process of a simulated cluster: an actor system with its own clock and transport. */
export class SimulatedProcess {
  readonly node: string;
  readonly system: ActorSystem;
  readonly #clock: ProcessClock;
  readonly #network: SimulatedNetwork;
  readonly #cleanups: (() => void)[] = [];
  #alive = true;

  constructor({ node, peers, clock, network, random, log, onCrash, onPeer }: ProcessOptions) {
    this.node = node;
    this.#clock = new ProcessClock(clock);
    this.#network = network;
    this.system = ActorSystem.create({
      clock: this.#clock,
      random,
      log,
      transport: network.join(node, peers),
      turns,
      onTopLevelCrash: (_ref, error) => onCrash(error),
      ...(onPeer && { onPeer }),
    });
  }

  get clock(): Clock {
    return this.#clock;
  }

  get isAlive(): boolean {
    return this.#alive;
  }

  /** Number of timers that are set. */
  get timers(): number {
    return this.#clock.pending;
  }

  /** Registers what the operating system does when the process is gone, such as freeing its memory or sockets. */
  whenGone(cleanup: () => void): void {
    this.#cleanups.push(cleanup);
  }

  /** Ends at once, as after SIGKILL. Sessions with peers stay open at the peers' ends. */
  kill(): void {
    if (!this.#alive) return;
    this.#network.vanish(this.node);
    this.#end();
  }

  /** Shuts down: actors stop, then peers are notified. */
  async stop(deadlineMilliseconds: number): Promise<void> {
    if (!this.#alive) return;
    // A process whose actors miss the deadline still ends.
    await this.system.stop(deadlineMilliseconds).catch(() => {});
    if (!this.#alive) return;
    this.#network.leave(this.node);
    this.#end();
  }

  #end(): void {
    this.#alive = false;
    this.system.halt();
    this.#clock.stop();
    for (const cleanup of this.#cleanups.reverse()) cleanup();
  }
}
