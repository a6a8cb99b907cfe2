import { AbortedError, asFailure, PeerLostError, UsageError, type WeightcastError } from '../../errors.ts';
import { SwarmActor, swarmSpawnOptions } from '../join/swarm.ts';
import type { Actor, ActorRef, Context, ReplyOf, Request } from '../kernel/index.ts';
import { PlannerActor, plannerSpawnOptions } from '../planner/planner.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { InstanceOptions } from '../protocol/instance-options.ts';
import type { PlannerMessage } from '../protocol/planner.ts';
import type { ClusterStatus } from '../protocol/status-values.ts';
import type { SwarmMessage } from '../protocol/swarm.ts';
import type { UpdateReport } from '../protocol/update-values.ts';
import { CommunicatorRegistry } from '../update/communicators.ts';
import type { UpdateSpec } from '../update/context.ts';
import { Update, type UpdateOutcome } from '../update/update.ts';
import { CheckpointLedger } from './checkpoint-ledger.ts';
import { CheckpointService } from './checkpoint-service.ts';
import type { MessageOf, SupervisorInbox } from './inbox.ts';
import { InstanceRegistry } from './instance-registry.ts';
import { InstanceService } from './instance-service.ts';
import { Jobs } from './jobs.ts';
import type { SupervisorPorts } from './ports.ts';
import { ProgressRelay } from './progress-relay.ts';
import { RankProcesses } from './rank-processes.ts';
import { RankRegistry } from './rank-registry.ts';
import { ReleasedSegments } from './released-segments.ts';
import { WaitingCallers } from './waiting-callers.ts';

export interface SupervisorOptions {
  readonly instances: readonly InstanceOptions[];
  /** How many sets of released checkpoint memory to keep for later checkpoints of the same sizes. */
  readonly spareCheckpoints: number;
  /** How long one start of a rank may take, until it owns its device. Default: `deadlines.start`. */
  readonly startTimeoutMilliseconds?: number | undefined;
}

/**
 * The root of the cluster's actors. It keeps the ledgers of ranks, instances and checkpoints, and runs registrations and
 * updates as jobs beside its mailbox.
 *
 * A job is an async method. What it does between two awaits runs to completion, as a handler does: no handler awaits, so
 * each of them sees the ledgers as the other left them. Hence a job changes the ledgers itself when it has ended, and no
 * mailbox can refuse that.
 */
export class SupervisorActor implements Actor<SupervisorInbox> {
  readonly #options: SupervisorOptions;
  readonly #ports: SupervisorPorts;
  readonly #ranks = new RankRegistry();
  readonly #instances = new InstanceRegistry();
  readonly #jobs = new Jobs();
  readonly #updates = new Set<Update>();
  readonly #communicators = new CommunicatorRegistry();
  readonly #ledger: CheckpointLedger;
  readonly #checkpoints: CheckpointService;
  readonly #processes: RankProcesses;
  readonly #callers: WaitingCallers;
  readonly #instanceService: InstanceService;
  readonly #progress = new ProgressRelay();
  /** Settles when all rank processes have ended; null until they are asked to. */
  #ranksEnded: Promise<void> | null = null;
  #planner!: ActorRef<PlannerMessage>;
  #swarm!: ActorRef<SwarmMessage>;
  #epoch = 0;

  /** `ledger`: for tests that look into it. */
  constructor(
    options: SupervisorOptions,
    ports: SupervisorPorts,
    ledger = new CheckpointLedger(options.spareCheckpoints),
  ) {
    this.#options = options;
    this.#ports = ports;
    this.#ledger = ledger;
    const released = new ReleasedSegments();
    this.#checkpoints = new CheckpointService(ledger, this.#ranks, released, this.#jobs, (set) =>
      ports.segmentName(set),
    );
    const { startTimeoutMilliseconds: startMilliseconds = deadlines.start } = options;
    this.#callers = new WaitingCallers(this.#instances, this.#ranks, startMilliseconds, () => this.#status());
    this.#processes = new RankProcesses(this.#ranks, ports, released, startMilliseconds, {
      onLost: (rank, reason, returns) => this.#rankLost(rank, reason, returns),
      onReady: (rank) => this.#rankReady(rank),
      onHostMemoryLost: (host, context) => this.#checkpoints.hostMemoryLost(host, context),
      onTrouble: (rank, error) => this.#rankTroubled(rank, error),
    });
    this.#instanceService = new InstanceService(
      this.#instances,
      this.#processes,
      this.#jobs,
      this.#callers,
      ports,
    );
  }

  started(context: Context<SupervisorInbox>): void {
    // Ranks end beside the children, which may take their time.
    context.signal.addEventListener('abort', () => void this.#endRanks(), { once: true });
    const manifestOf = (layout: string) => this.#ledger.manifestOf(layout);
    const createPlanner = () => new PlannerActor(this.#ports, manifestOf);
    this.#planner = context.spawn('planner', createPlanner, plannerSpawnOptions);
    this.#checkpoints.started(this.#planner);
    this.#swarm = context.spawn('swarm', () => new SwarmActor(), swarmSpawnOptions);
    this.#processes.place(this.#options.instances);
    for (const instance of this.#options.instances) this.#instanceService.join(instance, context);
  }

  /**
   * A throw fails the one message: a restart would lose the ledgers, and with them what all engines and ranks are known to
   * hold.
   */
  receive(message: SupervisorInbox, context: Context<SupervisorInbox>): void {
    try {
      this.#handle(message, context);
    } catch (thrown) {
      const error = asFailure(thrown);
      context.log.error({ type: message.type, error: error.message }, 'the supervisor failed on a message');
      context.fail(error);
    }
  }

  #handle(message: SupervisorInbox, context: Context<SupervisorInbox>): void {
    switch (message.type) {
      case 'register':
        return this.#answer(message, context, () => this.#checkpoints.register(message, context));
      case 'unregister':
        return this.#answer(message, context, () => {
          this.#checkpoints.unregister(message.checkpoint, context);
          return {};
        });
      case 'reserve':
        return this.#answer(message, context, () => this.#checkpoints.reserve(message, context));
      case 'cancel-reservation':
        this.#checkpoints.cancelReservation(message.reservation, context);
        return context.reply(message, {});
      case 'release-spare':
        return this.#answer(message, context, () => this.#checkpoints.releaseSpare(context));
      case 'writer-down':
        return this.#checkpoints.writerDown(message.writer, context);
      case 'export-metas':
        return this.#answer(message, context, () =>
          this.#checkpoints.exportMetas(message.checkpoint, context),
        );
      case 'update':
        return this.#answer(message, context, () => this.#update(message, context));
      case 'add-instance':
        return this.#instanceService.add(message, context);
      case 'remove-instance':
        return this.#answer(message, context, () => this.#instanceService.remove(message, context));
      case 'resume-instance':
        return this.#answer(message, context, () => this.#instanceService.resume(message, context));
      case 'cancel':
        this.#jobs.abortAll(new AbortedError(message.reason));
        return context.reply(message, {});
      case 'drain':
        return this.#answer(message, context, () => done(this.#jobs.drain(stopping())));
      case 'status':
        return context.reply(message, this.#status());
      case 'await-ready':
        return this.#awaitReady(message, context);
      case 'subscribe':
        this.#progress.add(message.observer);
        return context.reply(message, {});
      case 'progress':
        return this.#progress.relay(message.progress, context);
      case 'caller-late':
        return this.#callers.late(message.caller);
      case 'rank-ready':
        return this.#processes.ready(message, context);
      case 'rank-failed':
        return this.#processes.failed(message);
      case 'rank-down':
        return this.#processes.down(message);
      case 'rank-late':
        return this.#processes.late(message);
      case 'restart-rank':
        return this.#processes.restart(message, context);
    }
  }

  async stopping(): Promise<void> {
    await this.#endRanks();
  }

  #endRanks(): Promise<void> {
    this.#jobs.abortAll(stopping());
    this.#ranksEnded ??= this.#processes.stopAll();
    return this.#ranksEnded;
  }

  #awaitReady(message: MessageOf<'await-ready'>, context: Context<SupervisorInbox>): void {
    const reply = context.deferReply(message);
    this.#callers.add({ instances: this.#instances.names, reply, onFailure: () => {} }, context);
  }

  /** Answers with what `work` returns or resolves with, or why it fails. */
  #answer<Q extends SupervisorInbox & Request<unknown>>(
    message: Q,
    context: Context<SupervisorInbox>,
    work: () => ReplyOf<Q> | Promise<ReplyOf<Q>>,
  ): void {
    const reply = context.deferReply(message);
    const run = async () => work();
    run().then(
      (answer) => reply.succeed(answer),
      (error) => reply.fail(asFailure(error)),
    );
  }

  #status(): ClusterStatus {
    return {
      epoch: this.#epoch,
      ranks: this.#ranks.status(),
      instances: this.#instances.status(),
      checkpoints: this.#ledger.statuses(),
      spareBytes: this.#ledger.spareBytes,
    };
  }

  // ── updates ──────────────────────────────────────────────────────────────────────────────────────────────────

  async #update(message: MessageOf<'update'>, context: Context<SupervisorInbox>): Promise<UpdateReport> {
    const { checkpoint } = message;
    const names = [...new Set(message.options.instances ?? this.#instances.names)];
    const spec = this.#updateSpec(message, names, context);
    const { what } = spec;
    // An update goes on without the instances whose ranks are lost.
    const facts = { kind: 'update', what, checkpoint, ranks: [], instances: names } as const;
    const running = this.#jobs.run(facts, async (abort) => {
      const endReading = this.#checkpoints.read(checkpoint, context);
      try {
        const { report, copies } = await this.#run(new Update(context, spec, abort));
        this.#checkpoints.addCopies(checkpoint, copies);
        return report;
      } finally {
        endReading();
      }
    });
    return await running.finally(() => this.#processes.killUnresponsive());
  }

  /** While an update runs, it is notified of ranks that others are read from. */
  async #run(update: Update): Promise<UpdateOutcome> {
    this.#updates.add(update);
    try {
      return await update.run();
    } finally {
      this.#updates.delete(update);
    }
  }

  /** Throws why these instances cannot be updated to the checkpoint. */
  #updateSpec(
    { checkpoint, options }: MessageOf<'update'>,
    names: readonly string[],
    context: Context<SupervisorInbox>,
  ): UpdateSpec {
    const registered = this.#ledger.get(checkpoint);
    if (names.length === 0) throw new UsageError('the cluster has no instance to update');
    const targets = this.#instances.targets(names);
    const unfit = this.#instances.unfit(targets, (ranks) => this.#ranks.areReady(ranks));
    const isVain = unfit.size === targets.length;
    if (isVain) this.#checkAlive(names);
    const fit = targets.filter((target) => isVain || !unfit.has(target));
    const whom = options.instances === undefined ? '' : `${names.join(', ')} `;
    return {
      what: `updating ${whom}to ${checkpoint}`,
      checkpoint: registered,
      options,
      exchanges: this.#instances.exchanges(names),
      ranks: this.#ranks.readyAmong(fit.flatMap(({ ranks }) => [...ranks])),
      targets,
      unfit,
      planner: this.#planner,
      swarm: this.#swarm,
      communicators: this.#communicators,
      readyRanks: () => this.#ranks.allReady(),
      endsAt: context.clock.now() + options.timeoutMilliseconds,
      nextEpoch: () => {
        this.#epoch += 1;
        return this.#epoch;
      },
      instances: this.#instances,
      freeHostMemory: () => this.#checkpoints.freeSpare(context),
      onMirrorsUnused: (mirrors) => void this.#checkpoints.release(mirrors, context),
      onUnresponsive: (rank, reason) => this.#processes.unresponsive(rank, reason),
    };
  }

  /** Throws why one of these instances cannot be updated now. */
  #checkAlive(names: readonly string[]): void {
    const failure = this.#instances.failureAmong(names);
    if (failure !== null) throw failure;
  }

  // ── ranks ────────────────────────────────────────────────────────────────────────────────────────────────────

  #rankReady(rank: number): void {
    this.#noteTrouble(rank);
    // Ranks that were ready before are in communicators with the previous process of this one.
    this.#communicators.rankLost(rank);
    for (const update of this.#updates) update.rankReady(rank);
    this.#callers.answer();
  }

  #rankLost(rank: number, reason: string, returns: boolean, error?: WeightcastError): void {
    this.#communicators.rankLost(rank);
    this.#jobs.abortWith(rank, (what) => new PeerLostError(`rank ${rank} died (${reason}) while ${what}`));
    for (const update of this.#updates) update.rankLost(rank, { reason, returns, error });
  }

  /** Until the rank is ready, its instance cannot be updated. Other instances are not affected. */
  #rankTroubled(rank: number, error: WeightcastError): void {
    this.#ranks.markTroubled(rank, error);
    this.#noteTrouble(rank);
    this.#jobs.abortWith(rank, () => error);
    this.#rankLost(rank, error.message, false, error);
    this.#callers.answer();
  }

  #noteTrouble(rank: number): void {
    const instance = this.#instances.withRank(rank);
    if (instance === null) return;
    const { ranks } = this.#instances.options(instance);
    this.#instances.setFailure(instance, this.#ranks.troubleAmong(ranks));
  }
}

function stopping(): AbortedError {
  return new AbortedError('the cluster is stopping');
}

/** The answer to a request that asks for nothing back. */
async function done(work: Promise<unknown>): Promise<Record<string, never>> {
  await work;
  return {};
}
