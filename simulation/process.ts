import { ActorSystem } from '../src/actors/kernel/index.ts';
import type { WeightcastError } from '../src/errors.ts';
import type { Clock, Logger, Random } from '../src/ports.ts';
import type { SimulatedClock } from './clock.ts';
import type { SimulatedNetwork } from './network.ts';
import { turns } from './turns.ts';

/** The time of one process: its timers end with it. */
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
  /** The nodes it is in session with from the start. */
  readonly peers: readonly string[];
  readonly clock: SimulatedClock;
  readonly network: SimulatedNetwork;
  readonly random: Random;
  readonly log: Logger;
  /** An actor without a parent has crashed for good. */
  readonly onCrash: (error: WeightcastError) => void;
}

/** One process of a simulated cluster: an actor system with time and transport of its own, which end with it. */
export class SimulatedProcess {
  readonly node: string;
  readonly system: ActorSystem;
  readonly #clock: ProcessClock;
  readonly #network: SimulatedNetwork;
  readonly #ends: (() => void)[] = [];
  #alive = true;

  constructor({ node, peers, clock, network, random, log, onCrash }: ProcessOptions) {
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
    });
  }

  get clock(): Clock {
    return this.#clock;
  }

  get isAlive(): boolean {
    return this.#alive;
  }

  /** Timers that are set. */
  get timers(): number {
    return this.#clock.pending;
  }

  /** What the system takes from a process when it is gone: memory, sockets. */
  whenGone(end: () => void): void {
    this.#ends.push(end);
  }

  /** Gone in this instant, as after SIGKILL. Peers still believe in it. */
  kill(): void {
    if (!this.#alive) return;
    this.#network.vanish(this.node);
    this.#go();
  }

  /** Ends in order: actors stop, then peers are told. */
  async stop(deadlineMilliseconds: number): Promise<void> {
    if (!this.#alive) return;
    // A process that ends late ends all the same.
    await this.system.stop(deadlineMilliseconds).catch(() => {});
    if (!this.#alive) return;
    this.#network.leave(this.node);
    this.#go();
  }

  #go(): void {
    this.#alive = false;
    this.system.halt();
    this.#clock.stop();
    for (const end of this.#ends.reverse()) end();
  }
}
