import type { WorkersSaid } from '../../engines/workers-said.ts';
import { AbortedError, UsageError } from '../../errors.ts';
import type { ActorRef, Context } from '../kernel/index.ts';
import { ranksOf } from '../protocol/instance.ts';
import type { PlannerMessage } from '../protocol/planner.ts';
import type { SwarmMessage } from '../protocol/swarm.ts';
import type { UpdateReport } from '../protocol/update-values.ts';
import { CommunicatorRegistry } from '../update/communicators.ts';
import type { UpdateSpec } from '../update/context.ts';
import { Feeding, otherEngine } from '../update/feeding.ts';
import { versionOf } from '../update/open.ts';
import { type RankLoss, Update } from '../update/update.ts';
import { agreementOf } from './agreement.ts';
import type { CheckpointLedger } from './checkpoint-ledger.ts';
import type { CheckpointService } from './checkpoint-service.ts';
import { Healing, type HealingGoal } from './healing.ts';
import type { MessageOf, SupervisorInbox } from './inbox.ts';
import { Installs } from './install-ledger.ts';
import type { InstanceRegistry } from './instance-registry.ts';
import type { Jobs } from './jobs.ts';
import type { LastingMemory } from './lasting-memory.ts';
import type { RankProcesses } from './rank-processes.ts';
import type { RankRegistry } from './rank-registry.ts';

type UpdateOrder = Pick<MessageOf<'update'>, 'checkpoint' | 'options' | 'ticket'>;

/** What updates work with. */
export interface UpdateParts {
  readonly ledger: CheckpointLedger;
  readonly checkpoints: CheckpointService;
  readonly instances: InstanceRegistry;
  readonly ranks: RankRegistry;
  readonly processes: RankProcesses;
  readonly jobs: Jobs;
  readonly memory: LastingMemory;
  /** An update of these instances has ended, and may have left engines paused. */
  readonly onEnded: (instances: readonly string[]) => void;
}

/** Runs updates as jobs, those that are requested and those that heal instances which one of them has left behind. */
export class UpdateService {
  readonly #parts: UpdateParts;
  readonly #running = new Set<Update>();
  readonly #communicators: CommunicatorRegistry;
  readonly #installs = new Installs();
  /** By instance, what its engine's workers said last: an update is planned while they are asked again. */
  readonly #workers = new Map<string, WorkersSaid>();
  /** By the ticket of whoever may cancel them. */
  readonly #cancellable = new Map<string, AbortController>();
  readonly #healing = new Healing(
    (name, goal, abort) => this.#heal(name, goal, abort),
    () => this.#context,
    (patients) => this.#parts.memory.write('healing', patients),
  );
  #context!: Context<SupervisorInbox>;
  #planner!: ActorRef<PlannerMessage>;
  #swarm!: ActorRef<SwarmMessage>;
  #epoch: number;

  constructor(parts: UpdateParts) {
    this.#parts = parts;
    this.#epoch = parts.memory.recalled.epoch;
    this.#installs.recall(parts.memory.recalled.installs);
    this.#communicators = new CommunicatorRegistry(parts.memory.firstNumber);
  }

  started(
    context: Context<SupervisorInbox>,
    planner: ActorRef<PlannerMessage>,
    swarm: ActorRef<SwarmMessage>,
  ): void {
    this.#context = context;
    this.#planner = planner;
    this.#swarm = swarm;
    for (const { name, goal } of this.#parts.memory.recalled.healing) this.#healing.want([name], goal);
  }

  /** The last one that was begun. */
  get epoch(): number {
    return this.#epoch;
  }

  get healing(): Healing {
    return this.#healing;
  }

  /** Returns whether one with this ticket runs. */
  cancel(ticket: string, reason: string): boolean {
    const abort = this.#cancellable.get(ticket);
    abort?.abort(new AbortedError(reason));
    return abort !== undefined;
  }

  async update({ ticket, ...order }: UpdateOrder): Promise<UpdateReport> {
    const abort = new AbortController();
    if (ticket !== undefined) this.#cancellable.set(ticket, abort);
    try {
      return await this.#update(order, abort.signal);
    } finally {
      if (ticket !== undefined) this.#cancellable.delete(ticket);
    }
  }

  async #update({ checkpoint, options }: UpdateOrder, signal: AbortSignal): Promise<UpdateReport> {
    const names = [...new Set(options.instances ?? this.#parts.instances.names)];
    // What is refused takes nothing over.
    this.#spec({ checkpoint, options }, names);
    const left = this.#healing.leave(names, 'another update takes over');
    // Without a wait nothing else that was asked for comes first.
    if (left !== null) await left;
    const report = await this.#install({ checkpoint, options }, names, signal);
    const failed = report.instances.filter(({ outcome }) => outcome !== 'updated').map(({ name }) => name);
    if (options.heal) this.#healing.want(failed, { checkpoint, digest: report.digest, options });
    return report;
  }

  /** Epochs only grow, also beyond what a rank has seen of an earlier supervisor. */
  atLeast(epoch: number): void {
    this.#epoch = Math.max(this.#epoch, epoch);
  }

  rankReady(rank: number): void {
    // Ranks that were ready before are in communicators with the previous process of this one.
    this.#communicators.rankLost(rank);
    for (const update of this.#running) update.rankReady(rank);
    const { instances, ranks } = this.#parts;
    const instance = instances.withRank(rank);
    if (instance !== null && ranks.areReady(ranksOf(instances.options(instance))))
      this.#healing.hurry(instance);
  }

  rankLost(rank: number, loss: RankLoss): void {
    this.#communicators.rankLost(rank);
    for (const update of this.#running) update.rankLost(rank, loss);
  }

  /** Another try to update an instance that was left behind. Resolves with false if there is nothing to bring it to. */
  async #heal(
    name: string,
    { checkpoint, digest, options }: HealingGoal,
    { signal }: AbortController,
  ): Promise<boolean> {
    const { ledger, instances } = this.#parts;
    const registered = ledger.statuses().find((status) => status.checkpoint === checkpoint);
    if (registered?.digest !== digest || !instances.names.includes(name)) return false;
    await this.#install({ checkpoint, options: { ...options, instances: [name] } }, [name], signal);
    return true;
  }

  /** `signal` aborts it. */
  async #install(order: UpdateOrder, names: readonly string[], signal: AbortSignal): Promise<UpdateReport> {
    const { checkpoint } = order;
    const { jobs, checkpoints, processes } = this.#parts;
    const context = this.#context;
    const spec = this.#spec(order, names);
    // Another one, whose answers are compared with theirs, stays as it is meanwhile.
    const instances = [...names, ...(spec.agreeWith === null ? [] : [spec.agreeWith.name])];
    // An update goes on without the instances whose ranks are lost.
    const facts = { kind: 'update', what: spec.what, checkpoint, ranks: [], instances } as const;
    const running = jobs.run(facts, async (abort) => {
      const endReading = checkpoints.read(checkpoint, context);
      const update = new Update(context, spec, abort);
      const onAbort = () => abort.abort(signal.reason);
      signal.addEventListener('abort', onAbort, { once: true });
      if (signal.aborted) onAbort();
      // While it runs, it is notified of ranks.
      this.#running.add(update);
      try {
        const { report, copies } = await update.run();
        checkpoints.addCopies(checkpoint, copies);
        return report;
      } finally {
        this.#running.delete(update);
        signal.removeEventListener('abort', onAbort);
        endReading();
      }
    });
    return await running.finally(async () => {
      processes.killUnresponsive();
      this.#parts.onEnded(names);
      // Tens of MiB in a large cluster.
      const record = this.#installs.takeRecord();
      if (record !== null) await this.#parts.memory.writeLarge('installs', record);
    });
  }

  /** Throws why these instances cannot be updated to the checkpoint. */
  #spec({ checkpoint, options }: UpdateOrder, names: readonly string[]): UpdateSpec {
    const { ledger, instances, ranks, processes, checkpoints } = this.#parts;
    const context = this.#context;
    const registered = ledger.get(checkpoint);
    if (names.length === 0) throw new UsageError('the cluster has no instance to update');
    for (const name of this.#workers.keys()) if (!instances.names.includes(name)) this.#workers.delete(name);
    const targets = instances.targets(names);
    const unfit = instances.unfit(targets, (own) => ranks.areReady(own));
    const isVain = unfit.size === targets.length;
    const failure = isVain ? instances.failureAmong(names) : null;
    if (failure !== null) throw failure;
    const fit = targets.filter((target) => isVain || !unfit.has(target));
    const feeding = new Feeding();
    // A wrong record of parts may be why, and would break it again.
    for (const { name } of fit.filter(({ isBroken }) => isBroken)) feeding.demandWhole(name, 'it was broken');
    for (const { name } of fit.filter((target) => target.hasOtherEngine))
      feeding.demandWhole(name, otherEngine);
    const whom = options.instances === undefined ? '' : `${names.join(', ')} `;
    return {
      what: `updating ${whom}to ${checkpoint}`,
      checkpoint: registered,
      options,
      exchanges: instances.exchanges(names),
      ranks: ranks.readyAmong(fit.flatMap((target) => [...target.ranks])),
      targets,
      agreeWith: agreementOf(instances, targets, options.verify.answers, versionOf(registered)),
      unfit,
      planner: this.#planner,
      swarm: this.#swarm,
      communicators: this.#communicators,
      readyRanks: () => ranks.allReady(),
      endsAt: context.clock.now() + options.timeoutMilliseconds,
      nextEpoch: () => {
        this.#epoch += 1;
        this.#parts.memory.write('epoch', this.#epoch);
        return this.#epoch;
      },
      instances,
      installs: this.#installs,
      workers: this.#workers,
      feeding,
      freeHostMemory: () => checkpoints.freeSpare(context),
      onUnneeded: (segments) => void checkpoints.release(segments, context),
      onUnresponsive: (rank, reason) => processes.unresponsive(rank, reason),
    };
  }
}
