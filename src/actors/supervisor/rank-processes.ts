import { describe, PeerLostError, UsageError, type WeightcastError } from '../../errors.ts';
import type { Context } from '../kernel/index.ts';
import { RestartIntensity } from '../kernel/index.ts';
import type { InstanceOptions } from '../protocol/instance-options.ts';
import type { MessageOf, SupervisorInbox } from './inbox.ts';
import type { LaunchedRank, SupervisorPorts } from './ports.ts';
import type { RankRegistry } from './rank-registry.ts';
import type { ReleasedSegments } from './released-segments.ts';

/** A rank process that exits is restarted this often; with one more exit within the time its instance fails. */
const restartLimits = {
  restarts: 3,
  withinMilliseconds: 60_000,
  backoffMilliseconds: 200,
  maximumBackoffMilliseconds: 5_000,
};

/** What the rest of the supervisor learns about rank processes. */
export interface RankListener {
  /**
   * The rank's actor or process has ended; called at least once for each life of a rank. `returns`: it is going to be
   * restarted.
   */
  onLost(rank: number, reason: string, returns: boolean): void;
  onReady(rank: number): void;
  /** All ranks of a host had exited; its checkpoint memory is gone. */
  onHostMemoryLost(host: string, context: Context<SupervisorInbox>): void;
  /** The rank is not restarted any more. */
  onGivenUp(rank: number, error: WeightcastError): void;
}

/** Starts, watches, restarts and ends rank processes, and keeps the registry of ranks up to date. */
export class RankProcesses {
  readonly #ranks: RankRegistry;
  readonly #ports: SupervisorPorts;
  readonly #released: ReleasedSegments;
  readonly #listener: RankListener;
  readonly #instanceOf = new Map<number, InstanceOptions>();
  /** Ranks that wait for their restart, each with what cancels it. */
  readonly #restarts = new Map<number, () => void>();

  constructor(
    ranks: RankRegistry,
    ports: SupervisorPorts,
    released: ReleasedSegments,
    listener: RankListener,
  ) {
    this.#ranks = ranks;
    this.#ports = ports;
    this.#released = released;
    this.#listener = listener;
  }

  /** Throws `UsageError` if one of these ranks is in the cluster already. */
  checkNew(ranks: readonly number[]): void {
    const taken = ranks.find((rank) => this.#ranks.has(rank));
    if (taken !== undefined) throw new UsageError(`rank ${taken} is in the cluster already`);
  }

  add(instance: InstanceOptions, context: Context<SupervisorInbox>): void {
    for (const rank of instance.ranks) {
      this.#instanceOf.set(rank, instance);
      this.#ranks.add(rank, new RestartIntensity(restartLimits, context.clock, context.random));
      this.#launch(rank, context);
    }
  }

  /** Resolves when the processes have ended. */
  async remove(instance: InstanceOptions): Promise<void> {
    const processes = instance.ranks.map((rank) => {
      this.#instanceOf.delete(rank);
      this.#cancelRestart(rank);
      return this.#ranks.remove(rank);
    });
    // Only after all of them have left the registry: none may stand in for another.
    const reason = `instance ${instance.name} was removed`;
    for (const rank of instance.ranks) this.#listener.onLost(rank, reason, false);
    await Promise.allSettled(processes.map((process) => process?.stop()));
  }

  async stopAll(): Promise<void> {
    for (const rank of [...this.#restarts.keys()]) this.#cancelRestart(rank);
    await Promise.allSettled(this.#ranks.processes().map((process) => process.stop()));
  }

  #launch(rank: number, context: Context<SupervisorInbox>): void {
    const process = this.#ports.launchRank(rank, this.#instanceOf.get(rank)!);
    this.#ranks.markLaunched(rank, process);
    void process.exited.then((reason) => this.#exited(rank, process, reason, context));
  }

  ready({ type: _, ...ready }: MessageOf<'rank-ready'>, context: Context<SupervisorInbox>): void {
    const { rank, ref, host } = ready;
    if (!this.#ranks.has(rank)) return;
    const lost = this.#ranks.markReady(ready);
    if (lost !== null) this.#listener.onHostMemoryLost(lost.host, context);
    this.#listener.onReady(rank);
    const released = this.#released.of(host);
    if (released.length > 0) context.tell(ref, { type: 'release', segments: [...released] });
    context.watch(ref, ({ reason }) => ({ type: 'rank-down', rank, ref, reason }));
  }

  down({ rank, ref, reason }: MessageOf<'rank-down'>): void {
    if (!this.#ranks.markDown(rank, ref)) return;
    this.#listener.onLost(rank, reason, true);
    // The process may still run without a connection; it has to end before the rank is restarted.
    void this.#ranks.process(rank)?.stop();
  }

  #exited(rank: number, process: LaunchedRank, reason: string, context: Context<SupervisorInbox>): void {
    // A supervisor that is ending restarts nothing.
    if (context.signal.aborted || this.#ranks.process(rank) !== process) return;
    this.#ranks.markDown(rank, null);
    if (this.#ranks.isLost(rank)) return;
    this.#listener.onLost(rank, reason, true);
    const delay = this.#ranks.restartDelay(rank);
    if (delay === null) {
      const { restarts, withinMilliseconds } = restartLimits;
      const times = `${restarts + 1} times in ${withinMilliseconds / 1_000} s`;
      this.#listener.onGivenUp(
        rank,
        new PeerLostError(`rank ${rank} exited ${times} (${reason}); giving up`),
      );
      return;
    }
    context.log.warn({ rank, reason, delay }, 'rank process exited; restarting it');
    this.#restarts.set(
      rank,
      context.clock.after(delay, () => this.#restart(rank, process, context)),
    );
  }

  /** A process that cannot be started counts as one that exited. */
  #restart(rank: number, previous: LaunchedRank, context: Context<SupervisorInbox>): void {
    this.#restarts.delete(rank);
    if (context.signal.aborted) return;
    try {
      this.#launch(rank, context);
    } catch (thrown) {
      this.#exited(rank, previous, describe(thrown), context);
    }
  }

  #cancelRestart(rank: number): void {
    this.#restarts.get(rank)?.();
    this.#restarts.delete(rank);
  }
}
