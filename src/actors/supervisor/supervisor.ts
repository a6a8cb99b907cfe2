import { AbortedError, asFailure, PeerLostError, type WeightcastError } from '../../errors.ts';
import { SwarmActor, swarmSpawnOptions } from '../join/swarm.ts';
import type { Actor, Context, ReplyOf, Request } from '../kernel/index.ts';
import { PlannerActor, plannerSpawnOptions } from '../planner/planner.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { type Instance, ranksOf } from '../protocol/instance.ts';
import type { ClusterStatus } from '../protocol/status-values.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import { CheckpointLedger } from './checkpoint-ledger.ts';
import { CheckpointService } from './checkpoint-service.ts';
import { EngineChecks } from './engine-checks.ts';
import type { MessageOf, SupervisorInbox } from './inbox.ts';
import { InstanceRegistry } from './instance-registry.ts';
import { InstanceService } from './instance-service.ts';
import { Jobs } from './jobs.ts';
import { LastingMemory } from './lasting-memory.ts';
import type { SupervisorPorts } from './ports.ts';
import { ProgressRelay } from './progress-relay.ts';
import { RankProcesses } from './rank-processes.ts';
import { RankRegistry } from './rank-registry.ts';
import { ReleasedSegments } from './released-segments.ts';
import { Resumption } from './resumption.ts';
import { Takeover } from './takeover.ts';
import { UpdateService } from './update-service.ts';
import { WaitingCallers } from './waiting-callers.ts';

type RankNews = 'rank-ready' | 'rank-failed' | 'rank-down' | 'rank-late' | 'restart-rank';

export interface SupervisorOptions {
  readonly instances: readonly Instance[];
  /** How many sets of released checkpoint memory to keep for later checkpoints of the same sizes. */
  readonly spareCheckpoints: number;
  /** How long one start of a rank may take, until it owns its device. Default: `deadlines.start`. */
  readonly startTimeoutMilliseconds?: number | undefined;
  /** At the end, of one try to resume an engine, and of a pause that may still take effect. Default: `deadlines.lastResumeTry`. */
  readonly lastResumeMilliseconds?: number;
  /** What a rank that is lost gets to end by itself. Default: `deadlines.lostRank`. */
  readonly lostRankMilliseconds?: number;
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
  readonly #memory: LastingMemory;
  readonly #ranks: RankRegistry;
  readonly #instances: InstanceRegistry;
  readonly #jobs = new Jobs();
  readonly #ledger: CheckpointLedger;
  readonly #checkpoints: CheckpointService;
  readonly #processes: RankProcesses;
  readonly #callers: WaitingCallers;
  readonly #instanceService: InstanceService;
  readonly #updates: UpdateService;
  readonly #resumption: Resumption;
  readonly #takeover: Takeover;
  readonly #checks: EngineChecks;
  readonly #progress = new ProgressRelay();
  /** Settles when all rank processes have ended; null until they are asked to. */
  #ranksEnded: Promise<void> | null = null;

  /** `ledger`: for tests that look into it. */
  constructor(
    options: SupervisorOptions,
    ports: SupervisorPorts,
    ledger = new CheckpointLedger(options.spareCheckpoints),
  ) {
    this.#options = options;
    this.#ports = ports;
    this.#ledger = ledger;
    const memory = new LastingMemory(ports.memory);
    const { recalled } = memory;
    this.#memory = memory;
    this.#ranks = new RankRegistry(recalled.directories);
    this.#instances = new InstanceRegistry(
      (instances) => memory.keep('instances', instances),
      (instance, mayStillPause) => ports.noteInstance(instance, mayStillPause),
    );
    const undecided = this.#instances.recall(recalled.instances);
    const released = new ReleasedSegments();
    const segmentName = (set: number) => ports.segmentName(set);
    this.#checkpoints = new CheckpointService(ledger, this.#ranks, released, this.#jobs, segmentName, memory);
    const { startTimeoutMilliseconds: startMilliseconds = deadlines.start } = options;
    this.#callers = new WaitingCallers(this.#instances, this.#ranks, startMilliseconds, () => this.#status());
    const { lostRankMilliseconds: lostMilliseconds = deadlines.lostRank } = options;
    const times = { startMilliseconds, lostMilliseconds };
    this.#processes = new RankProcesses(this.#ranks, ports, released, times, memory, {
      onLost: (rank, reason, returns) => this.#rankLost(rank, reason, returns),
      onReady: (ready) => this.#rankReady(ready),
      kept: (host) => ledger.pathsOn(host),
      onHostMemoryLost: (host, context) => this.#checkpoints.hostMemoryLost(host, context),
      onTrouble: (rank, error) => this.#rankTroubled(rank, error),
    });
    this.#updates = new UpdateService({
      ledger,
      checkpoints: this.#checkpoints,
      instances: this.#instances,
      ranks: this.#ranks,
      processes: this.#processes,
      jobs: this.#jobs,
      memory,
      onEnded: (names) => this.#resumption.want(names, 'later'),
    });
    this.#instanceService = new InstanceService(
      this.#instances,
      this.#processes,
      this.#jobs,
      this.#callers,
      ports,
    );
    this.#checks = new EngineChecks(this.#instances, (name) => this.#instanceService.isBusy(name));
    const { lastResumeMilliseconds = deadlines.lastResumeTry } = options;
    this.#resumption = new Resumption(this.#instances, this.#instanceService, lastResumeMilliseconds);
    this.#takeover = new Takeover(this.#instances, this.#ranks, this.#resumption, undecided);
  }

  started(context: Context<SupervisorInbox>): void {
    this.#memory.started(context.log);
    // Ranks end beside the children, which may take their time.
    context.signal.addEventListener('abort', () => void this.#endRanks(), { once: true });
    const manifestOf = (layout: string) => this.#ledger.manifestOf(layout);
    const createPlanner = () => new PlannerActor(this.#ports, manifestOf);
    const planner = context.spawn('planner', createPlanner, plannerSpawnOptions);
    this.#checkpoints.started(planner);
    const swarm = context.spawn('swarm', () => new SwarmActor(), swarmSpawnOptions);
    this.#updates.started(context, planner, swarm);
    this.#processes.recall(this.#options.instances);
    this.#processes.place(this.#options.instances);
    for (const instance of this.#options.instances) this.#instanceService.join(instance, context);
    this.#resumption.started(context);
    this.#takeover.started();
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
        return this.#change(message, context, () => this.#checkpoints.register(message, context));
      case 'unregister':
        return this.#change(message, context, async () => {
          this.#checkpoints.unregister(message.checkpoint, context);
          return {};
        });
      case 'reserve':
        return this.#change(message, context, async () => this.#checkpoints.reserve(message, context));
      case 'cancel-reservation':
        this.#checkpoints.cancelReservation(message.reservation, context);
        return context.reply(message, {});
      case 'release-spare':
        return this.#answer(message, context, () => this.#checkpoints.releaseSpare(context));
      case 'released':
        return this.#answer(message, context, () => this.#checkpoints.released());
      case 'writer-down':
        return this.#checkpoints.writerDown(message.writer, context);
      case 'export-metas':
        return this.#answer(message, context, () =>
          this.#checkpoints.exportMetas(message.checkpoint, context),
        );
      case 'update':
        return this.#answer(message, context, () => this.#update(message));
      case 'cancel-update':
        return context.reply(message, { running: this.#updates.cancel(message.ticket, message.reason) });
      case 'add-instance':
        this.#instanceService.add(message, context);
        // An earlier one of that name may have been removed when its engine was left paused.
        return this.#resumption.want([message.instance.name], 'at once');
      case 'remove-instance':
        return this.#answer(message, context, () => done(this.#remove(message.instance, context)));
      case 'resume-instance':
        return this.#answer(message, context, () => this.#instanceService.resume(message, context));
      case 'cancel':
        this.#jobs.abortAll(new AbortedError(message.reason));
        return context.reply(message, {});
      case 'drain':
        return this.#answer(message, context, () => done(this.#drain()));
      case 'status':
        return this.#answer(message, context, () => this.#checks.run(context).then(() => this.#status()));
      case 'await-ready':
        return this.#awaitReady(message, context);
      case 'subscribe':
        this.#progress.add(message.observer);
        return context.reply(message, {});
      case 'progress':
        return this.#progress.relay(message.progress, context);
      case 'caller-late':
        return this.#callers.late(message.caller);
      default:
        return this.#handleRank(message, context);
    }
  }

  #handleRank(
    message: Extract<SupervisorInbox, { readonly type: RankNews }>,
    context: Context<SupervisorInbox>,
  ): void {
    switch (message.type) {
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
    this.#updates.healing.close();
    this.#callers.close(stopping());
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

  /** The same for a request that changes a checkpoint, which healing must not keep busy. */
  #change<Q extends SupervisorInbox & Request<unknown> & { readonly checkpoint: string }>(
    message: Q,
    context: Context<SupervisorInbox>,
    work: () => Promise<ReplyOf<Q>>,
  ): void {
    const left = this.#updates.healing.leaveCheckpoint(message.checkpoint);
    this.#answer(message, context, left === null ? work : () => left.then(work));
  }

  /** After engines that were left paused were resumed. */
  #update(message: MessageOf<'update'>): ReturnType<UpdateService['update']> {
    const resumed = this.#resumption.resumed(message.options.instances ?? this.#instances.names);
    const update = () => this.#updates.update(message);
    return resumed === null ? update() : resumed.then(update);
  }

  async #remove(instance: string, context: Context<SupervisorInbox>): Promise<void> {
    const left = this.#updates.healing.leave([instance], 'the instance is removed');
    if (left !== null) await left;
    await this.#instanceService.remove(instance, context);
  }

  async #drain(): Promise<void> {
    this.#updates.healing.close();
    this.#callers.close(stopping());
    await this.#jobs.drain(stopping());
    await this.#resumption.finish();
  }

  #status(): ClusterStatus {
    return {
      epoch: this.#updates.epoch,
      ranks: this.#ranks.status(),
      instances: this.#instances.status(),
      checkpoints: this.#ledger.statuses(),
      spareBytes: this.#ledger.spareBytes,
    };
  }

  // ── ranks ────────────────────────────────────────────────────────────────────────────────────────────────────

  #rankReady(ready: ReadyRank): void {
    const { rank, epochs } = ready;
    this.#noteTrouble(rank);
    this.#updates.atLeast(epochs.last);
    this.#takeover.rankReady(ready);
    this.#updates.rankReady(rank);
    this.#callers.answer();
  }

  #rankLost(rank: number, reason: string, returns: boolean, error?: WeightcastError): void {
    this.#jobs.abortWith(rank, (what) => new PeerLostError(`rank ${rank} died (${reason}) while ${what}`));
    this.#updates.rankLost(rank, { reason, returns, error });
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
    const ranks = ranksOf(this.#instances.options(instance));
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
