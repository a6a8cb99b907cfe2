import type { ActorRef, ActorSystem, PeerEvent } from '../actors/kernel/index.ts';
import type { SupervisorMessage } from '../actors/protocol/supervisor.ts';
import type { RankInbox } from '../actors/rank/inbox.ts';
import { systemClock } from '../native-bridge/clock.ts';
import type { Logger } from '../ports.ts';
import type { RankConfiguration } from './configuration.ts';

/** Whose orders this process takes, and how it ends. */
export class Allegiance {
  /** Resolves when the process is to end: with whether its host's memory is to be kept for the one that takes its place. */
  readonly over: Promise<{ readonly keepsMemory: boolean }>;
  readonly #system: () => ActorSystem;
  readonly #orphanMilliseconds: number;
  readonly #parent: RankConfiguration['parent'];
  readonly #log: Logger;
  /** Null while it waits for another one. */
  #supervisor: string | null = null;
  /** Its parent is dead. Whether it is cut off from a later supervisor, or that one is dead too, it cannot tell. */
  #isOrphan = false;
  #rank: ActorRef<RankInbox> | null = null;
  #cancelOrphan = () => {};
  #end: (how: { readonly keepsMemory: boolean }) => void = () => {};

  constructor(
    system: () => ActorSystem,
    { orphanTimeoutMilliseconds, parent }: Pick<RankConfiguration, 'orphanTimeoutMilliseconds' | 'parent'>,
    log: Logger,
  ) {
    this.#system = system;
    this.#orphanMilliseconds = orphanTimeoutMilliseconds;
    this.#parent = parent;
    this.#log = log;
    this.over = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  end(): void {
    this.#end({ keepsMemory: false });
  }

  /** The rank's actor runs, and has introduced itself to that supervisor. */
  started(rank: ActorRef<RankInbox>, supervisor: string): void {
    this.#rank = rank;
    this.#supervisor = supervisor;
    this.#watch(supervisor);
  }

  parentDied(): void {
    // An agent's successor takes its ranks over; the supervisor is another process.
    if (this.#parent === 'agent') return;
    this.#isOrphan = true;
    // Otherwise the supervisor that it is connected to when it has started may be another one already.
    if (this.#rank !== null) this.#await();
  }

  peerChanged({ node, state }: PeerEvent): void {
    if (state !== 'up' || this.#rank === null || node === this.#supervisor) return;
    this.#log.info({ node }, 'another supervisor takes over');
    this.#cancelOrphan();
    this.#supervisor = node;
    const system = this.#system();
    system.tell(this.#rank, { type: 'supervisor-found', supervisor: system.wellKnown(node, 'supervisor') });
    this.#watch(node);
  }

  #watch(node: string): void {
    const system = this.#system();
    system.watch(system.wellKnown<SupervisorMessage>(node, 'supervisor'), () => {
      if (this.#supervisor !== node) return;
      // A host that is cut off keeps its ranks for a while: its agent may come back, and ends what is not wanted any more.
      if (this.#isOrphan || this.#parent === 'agent') return this.#await();
      this.#log.warn({}, 'cut off from the supervisor');
      this.#end({ keepsMemory: true });
    });
  }

  /** Ends what the dead supervisor has begun, and waits for another one. */
  #await(): void {
    this.#log.warn(
      {},
      `the supervisor has died, or this host is cut off; waiting ${this.#orphanMilliseconds / 1_000} s for another one`,
    );
    this.#supervisor = null;
    this.#system().tell(this.#rank!, { type: 'supervisor-died' });
    this.#cancelOrphan();
    this.#cancelOrphan = systemClock.after(this.#orphanMilliseconds, () => this.end());
  }
}
