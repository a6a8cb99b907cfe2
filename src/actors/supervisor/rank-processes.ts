import {
  DeadlineError,
  describe,
  fromWire,
  PeerLostError,
  toWire,
  UsageError,
  type WeightcastError,
  type WireError,
} from '../../errors.ts';
import type { Context } from '../kernel/index.ts';
import { type Instance, ranksOf, type Worker } from '../protocol/instance.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import { HostPositions } from './host-positions.ts';
import type { MessageOf, SupervisorInbox } from './inbox.ts';
import type { LastingMemory } from './lasting-memory.ts';
import type { LaunchedRank, SupervisorPorts } from './ports.ts';
import type { RankRegistry } from './rank-registry.ts';
import type { ReleasedSegments } from './released-segments.ts';
import { RestartBackoff } from './restart-backoff.ts';

/** A rank that has ended this often in a row is in trouble, and nobody waits for it any more. */
const endsInTrouble = 4;
/** A rank that has outlived its supervisor looks for another one every second. */
const survivorMilliseconds = 6_000;

/** How long rank processes may take. */
export interface RankTimes {
  /** From the launch until it owns its device. */
  readonly startMilliseconds: number;
  /**
   * What one that is lost to the cluster already gets to end by itself: it may still be well. One that hangs is killed after
   * it.
   */
  readonly lostMilliseconds: number;
}

/** What the rest of the supervisor learns about rank processes. */
export interface RankListener {
  /**
   * The rank's actor or process has ended; called at least once for each life of a rank. `returns`: it is expected back
   * in a moment.
   */
  onLost(rank: number, reason: string, returns: boolean): void;
  onReady(ready: ReadyRank): void;
  /** Paths of the segments on a host that are in use. */
  kept(host: string): string[];
  /** All ranks of a host had exited; its checkpoint memory is gone. */
  onHostMemoryLost(host: string, context: Context<SupervisorInbox>): void;
  /** It does not become ready, or keeps ending. It is started again all the same, and `onReady` says when that helped. */
  onTrouble(rank: number, error: WeightcastError): void;
}

/** Starts, watches, restarts and ends rank processes, and keeps the registry of ranks up to date. */
export class RankProcesses {
  readonly #ranks: RankRegistry;
  readonly #ports: SupervisorPorts;
  readonly #released: ReleasedSegments;
  readonly #listener: RankListener;
  readonly #times: RankTimes;
  readonly #placeOf = new Map<number, { readonly worker: Worker; readonly instance: Instance }>();
  readonly #positions = new HostPositions();
  readonly #memory: LastingMemory;
  /** Each with what it did not answer. */
  readonly #unresponsive = new Map<ReadyRank, string>();
  /** By rank, what cancels the timer of its start: the deadline of one that starts, or the wait before the next. */
  readonly #timers = new Map<number, () => void>();

  constructor(
    ranks: RankRegistry,
    ports: SupervisorPorts,
    released: ReleasedSegments,
    times: RankTimes,
    memory: LastingMemory,
    listener: RankListener,
  ) {
    this.#memory = memory;
    this.#ranks = ranks;
    this.#ports = ports;
    this.#released = released;
    this.#times = times;
    this.#listener = listener;
  }

  /** Throws `UsageError` if one of these ranks is in the cluster already. */
  checkNew(ranks: readonly number[]): void {
    const taken = ranks.find((rank) => this.#ranks.has(rank));
    if (taken !== undefined) throw new UsageError(`rank ${taken} is in the cluster already`);
  }

  /** Instances of an earlier supervisor keep their positions. */
  recall(instances: readonly Instance[]): void {
    const ranks = instances.flatMap(ranksOf);
    this.#positions.recall(ranks, this.#memory.recalled.positions);
  }

  /** Instances that are added together: their ranks take positions on their hosts in the order of their numbers. */
  place(instances: readonly Instance[]): void {
    this.#positions.assign(instances);
    this.#memory.write('positions', this.#positions.all);
  }

  add(instance: Instance, context: Context<SupervisorInbox>): void {
    this.place([instance]);
    for (const worker of instance.workers) {
      const { rank } = worker;
      this.#placeOf.set(rank, { worker, instance });
      this.#ranks.add(rank, new RestartBackoff(context.clock, context.random));
      this.#launch(rank, context);
    }
  }

  /** Resolves when the processes have ended. */
  async remove(instance: Instance): Promise<void> {
    const ranks = ranksOf(instance);
    const processes = instance.workers.map(({ rank, host }) => {
      this.#placeOf.delete(rank);
      this.#positions.release(rank);
      this.#cancelTimer(rank);
      return { process: this.#ranks.remove(rank), host };
    });
    const hosts = new Set([...this.#placeOf.values()].map(({ worker }) => worker.host));
    this.#memory.write('positions', this.#positions.all);
    // Only after all of them have left the registry: none may stand in for another.
    const reason = `instance ${instance.name} was removed`;
    for (const rank of ranks) this.#listener.onLost(rank, reason, false);
    await Promise.allSettled(
      processes.map(({ process, host }) => process?.stop(undefined, { isHostFree: !hosts.has(host) })),
    );
  }

  async stopAll(): Promise<void> {
    for (const rank of [...this.#timers.keys()]) this.#cancelTimer(rank);
    await Promise.allSettled(this.#ranks.processes().map((process) => process.stop()));
  }

  #launch(rank: number, context: Context<SupervisorInbox>): void {
    const { worker, instance } = this.#placeOf.get(rank)!;
    const process = this.#ports.launchRank(worker, instance, this.#positions.of(rank));
    this.#ranks.markLaunched(rank, process);
    const late = { type: 'rank-late', rank, process } as const;
    const survivor = Math.min(survivorMilliseconds, this.#times.startMilliseconds);
    this.#setTimer(rank, process.isSurvivor ? survivor : this.#times.startMilliseconds, late, context);
    void process.adopted?.then(() => {
      const isAwaited = this.#ranks.process(rank) === process && this.#timers.has(rank);
      if (isAwaited && !context.signal.aborted) this.#setTimer(rank, survivor, late, context);
    });
    // At once and not as a message: jobs hear of the death before they hear of its consequences.
    void process.exited.then((reason) => this.#exited(rank, process, reason, context));
  }

  ready({ type: _, ...ready }: MessageOf<'rank-ready'>, context: Context<SupervisorInbox>): void {
    const { rank, ref, host } = ready;
    if (!this.#ranks.has(rank)) return;
    this.#cancelTimer(rank);
    const shared = this.#sharing(ready);
    if (shared !== null) {
      this.failed({ type: 'rank-failed', ...shared });
      if (shared.rank === rank) return;
    }
    const lost = this.#ranks.markReady(ready);
    this.#memory.write('directories', this.#ranks.directoryIds);
    if (lost !== null) this.#listener.onHostMemoryLost(lost.host, context);
    this.#listener.onReady(ready);
    const released = this.#released.of(host);
    if (released.length > 0) context.tell(ref, { type: 'release', segments: [...released] });
    const { isSuccessor, firstNumber: set, recalled } = this.#memory;
    if (isSuccessor)
      context.tell(ref, { type: 'sweep', set, epoch: recalled.epoch, kept: this.#listener.kept(host) });
    context.watch(ref, ({ reason }) => ({ type: 'rank-down', rank, ref, reason }));
  }

  /**
   * A device that an instance has chosen is its own. Only its host knows whose it is: an index and a UUID may mean the same
   * one. Returns the rank of the instance that came later, and what is wrong with it; null if nothing is.
   */
  #sharing({ rank, host, deviceUuid }: ReadyRank): { rank: number; error: WireError } | null {
    const own = this.#placeOf.get(rank)!;
    for (const other of this.#ranks.allReady()) {
      if (other.rank === rank || other.host !== host || other.deviceUuid !== deviceUuid) continue;
      const { worker, instance } = this.#placeOf.get(other.rank)!;
      const isChosen = (own.worker.device ?? worker.device) !== undefined;
      if (instance === own.instance || !isChosen) continue;
      const present = [...this.#placeOf.values()];
      const isLater = present.indexOf(own) > present.findIndex((place) => place.worker === worker);
      const names = isLater ? [instance.name, own.instance.name] : [own.instance.name, instance.name];
      const ranks = isLater ? [other.rank, rank] : [rank, other.rank];
      const message = `instances ${names.join(' and ')} both have a worker on device ${deviceUuid} of host ${host} (ranks ${ranks.join(' and ')})`;
      return { rank: ranks[1]!, error: toWire(new UsageError(message)) };
    }
    return null;
  }

  /** The rank says why it cannot start. What it lacks may come back. */
  failed({ rank, error }: MessageOf<'rank-failed'>): void {
    if (!this.#ranks.has(rank)) return;
    this.#cancelTimer(rank);
    this.#listener.onTrouble(rank, fromWire(error));
    void this.#ranks.process(rank)?.stop(this.#times.lostMilliseconds);
  }

  down({ rank, ref, reason }: MessageOf<'rank-down'>): void {
    if (!this.#ranks.markDown(rank, ref)) return;
    this.#listener.onLost(rank, reason, true);
    // The process may still run without a connection; it has to end before the rank is restarted.
    void this.#ranks.process(rank)?.stop(this.#times.lostMilliseconds);
  }

  /** A rank has not answered in time what it must answer. It is killed when the update has said why it failed. */
  unresponsive(rank: ReadyRank, reason: string): void {
    this.#unresponsive.set(rank, reason);
  }

  /** They come back. */
  killUnresponsive(): void {
    for (const [{ rank, ref }, reason] of this.#unresponsive) {
      if (!this.#ranks.markDown(rank, ref)) continue;
      this.#listener.onLost(rank, reason, true);
      void this.#ranks.process(rank)?.stop(0);
    }
    this.#unresponsive.clear();
  }

  late({ rank, process }: MessageOf<'rank-late'>): void {
    if (this.#ranks.process(rank) !== process) return;
    this.#timers.delete(rank);
    const error = process.isSurvivor
      ? `rank ${rank} did not introduce itself to another supervisor; it is killed and started again`
      : `rank ${rank} was not ready ${this.#times.startMilliseconds / 1_000} s after its start (startTimeoutMilliseconds); it is killed and started again${process.hint === undefined ? '' : `; ${process.hint}`}`;
    this.#listener.onTrouble(rank, new DeadlineError(error));
    void process.stop(process.isSurvivor ? 0 : this.#times.lostMilliseconds);
  }

  #exited(rank: number, process: LaunchedRank, reason: string, context: Context<SupervisorInbox>): void {
    // A supervisor that is ending restarts nothing.
    if (context.signal.aborted || this.#ranks.process(rank) !== process) return;
    this.#ranks.markDown(rank, null);
    this.#listener.onLost(rank, reason, true);
    const { delay, ends } = this.#ranks.restartDelay(rank);
    context.log.warn({ rank, reason, delay }, 'rank process exited; restarting it');
    this.#setTimer(rank, delay, { type: 'restart-rank', rank, process }, context);
    if (ends < endsInTrouble) return;
    const again = `it is started again in ${Math.ceil(delay / 1_000)} s`;
    this.#listener.onTrouble(
      rank,
      new PeerLostError(`rank ${rank} has ended ${ends} times (${reason}); ${again}`),
    );
  }

  /** A process that cannot be started counts as one that exited. */
  restart({ rank, process }: MessageOf<'restart-rank'>, context: Context<SupervisorInbox>): void {
    if (this.#ranks.process(rank) !== process) return;
    this.#timers.delete(rank);
    try {
      this.#launch(rank, context);
    } catch (thrown) {
      this.#exited(rank, process, describe(thrown), context);
    }
  }

  #setTimer(
    rank: number,
    milliseconds: number,
    message: SupervisorInbox,
    context: Context<SupervisorInbox>,
  ): void {
    this.#cancelTimer(rank);
    this.#timers.set(rank, context.schedule(milliseconds, message));
  }

  #cancelTimer(rank: number): void {
    this.#timers.get(rank)?.();
    this.#timers.delete(rank);
  }
}
