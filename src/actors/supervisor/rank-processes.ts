import { PeerLostError, type WeightcastError } from '../../errors.ts';
import type { Context } from '../kernel/index.ts';
import { RestartIntensity } from '../kernel/index.ts';
import type { InstanceOptions } from '../protocol/instance-options.ts';
import type { SupervisorInbox } from './inbox.ts';
import type { SupervisorPorts } from './ports.ts';
import type { Members } from './rank-registry.ts';
import type { ForgottenSegments } from './released-segments.ts';

type MessageOf<T extends SupervisorInbox['type']> = Extract<SupervisorInbox, { type: T }>;

/** A rank that dies is started again this often; one more within the time and the cluster ends with its reason. */
const rankRestarts = {
  restarts: 3,
  withinMilliseconds: 60_000,
  backoffMilliseconds: 200,
  maximumBackoffMilliseconds: 5_000,
};

/** What the lives of rank processes mean to the rest of the cluster. */
export interface RankNews {
  /** A life of the rank is over; also called when the next one begins. `returns`: there is to be a next one. */
  onLost(rank: number, reason: string, returns: boolean): void;
  onReady(rank: number): void;
  /** All that lay in the memory of a host is gone. */
  onMemoryLost(host: string, context: Context<SupervisorInbox>): void;
  /** It cannot be kept alive. */
  onFatal(rank: number, error: WeightcastError): void;
}

/** Starts rank processes, sees to it that they live, and keeps the ledger of them. */
export class RankProcesses {
  readonly #members: Members;
  readonly #ports: SupervisorPorts;
  readonly #forgotten: ForgottenSegments;
  readonly #news: RankNews;
  readonly #instanceOf = new Map<number, InstanceOptions>();
  /** Ranks that are to be started again, to what calls that off. */
  readonly #restarts = new Map<number, () => void>();

  constructor(members: Members, ports: SupervisorPorts, forgotten: ForgottenSegments, news: RankNews) {
    this.#members = members;
    this.#ports = ports;
    this.#forgotten = forgotten;
    this.#news = news;
  }

  add(instance: InstanceOptions, context: Context<SupervisorInbox>): void {
    for (const rank of instance.ranks) {
      this.#instanceOf.set(rank, instance);
      this.#members.add(rank, new RestartIntensity(rankRestarts, context.clock, context.random));
      this.#launch(rank, context);
    }
  }

  /** Resolves when the processes are gone. */
  async remove(instance: InstanceOptions): Promise<void> {
    const processes = instance.ranks.map((rank) => {
      this.#instanceOf.delete(rank);
      this.#restarts.get(rank)?.();
      this.#restarts.delete(rank);
      return this.#members.remove(rank);
    });
    // Only when all of them have left the ledger: none is to stand in for another.
    const reason = `instance ${instance.name} was removed`;
    for (const rank of instance.ranks) this.#news.onLost(rank, reason, false);
    await Promise.allSettled(processes.map((process) => process?.stop()));
  }

  async stopAll(): Promise<void> {
    await Promise.allSettled(this.#members.processes().map((process) => process.stop()));
  }

  /** Not if it was removed meanwhile; an instance with the same rank that joined since has its process. */
  startAgain(rank: number, context: Context<SupervisorInbox>): void {
    if (this.#restarts.delete(rank)) this.#launch(rank, context);
  }

  #launch(rank: number, context: Context<SupervisorInbox>): void {
    const process = this.#ports.launchRank(rank, this.#instanceOf.get(rank)!);
    this.#members.launched(rank, process);
    const exited = (reason: string) => ({ type: 'rank-exited', rank, process, reason }) as const;
    context.pipe(process.exited, exited, (error) => exited(error.message));
  }

  ready({ type: _, ...member }: MessageOf<'rank-ready'>, context: Context<SupervisorInbox>): void {
    const { rank, ref, host } = member;
    if (!this.#members.has(rank)) return;
    if (this.#members.ready(member)) this.#news.onMemoryLost(host, context);
    // Those who were there have joined communicators together with the life of the rank that this one replaces.
    this.#news.onReady(rank);
    const forgotten = this.#forgotten.of(host);
    if (forgotten.length > 0) context.tell(ref, { type: 'forget', segments: [...forgotten] });
    context.watch(ref, ({ reason }) => ({ type: 'rank-down', rank, ref, reason }));
  }

  down({ rank, ref, reason }: MessageOf<'rank-down'>): void {
    if (!this.#members.down(rank, ref)) return;
    this.#news.onLost(rank, reason, true);
    // Its process may live on where nobody reaches it; then it gives everything back, ends, and is started again.
    void this.#members.process(rank)?.stop();
  }

  exited({ rank, process, reason }: MessageOf<'rank-exited'>, context: Context<SupervisorInbox>): void {
    if (this.#members.process(rank) !== process) return;
    this.#members.down(rank, null);
    this.#news.onLost(rank, reason, true);
    const delay = this.#members.restartDelay(rank);
    if (delay !== null) {
      context.log.warn({ rank, reason, delay }, 'rank process ended; starting it again');
      this.#restarts.set(rank, context.schedule(delay, { type: 'launch-rank', rank }));
      return;
    }
    const error = new PeerLostError(`rank ${rank} keeps ending (${reason}); it is not started again`);
    this.#news.onFatal(rank, error);
  }
}
