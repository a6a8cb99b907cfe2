import {
  AbortedError,
  asFailure,
  fromWire,
  PeerLostError,
  UsageError,
  type WeightcastError,
} from '../../errors.ts';
import { SwarmActor, swarmSpawnOptions } from '../join/swarm.ts';
import type { Actor, ActorRef, Context, ReplyOf, Request } from '../kernel/index.ts';
import { PlannerActor } from '../planner/planner.ts';
import type { InstanceOptions } from '../protocol/instance-options.ts';
import type { ObserverMessage } from '../protocol/observer.ts';
import type { PlannerMessage } from '../protocol/planner.ts';
import type { SwarmMessage } from '../protocol/swarm.ts';
import type { ClusterStatus, Registered, Segment, UpdateOptions } from '../protocol/values.ts';
import { CommunicatorKeepers } from '../update/communicators.ts';
import type { UpdateOrder } from '../update/context.ts';
import { groupsOf } from '../update/groups.ts';
import { Updates } from '../update/running-updates.ts';
import { BridgeGroups } from './bridge-groups.ts';
import { CheckpointShelf } from './checkpoint-ledger.ts';
import { Checkpoints } from './checkpoint-service.ts';
import type { SupervisorInbox } from './inbox.ts';
import { Instances } from './instance-registry.ts';
import { Works } from './jobs.ts';
import type { SupervisorPorts } from './ports.ts';
import { RankProcesses } from './rank-processes.ts';
import { Members } from './rank-registry.ts';
import { ForgottenSegments } from './released-segments.ts';
import { beginWork } from './start-job.ts';
import { ReadyWaiters } from './waiting.ts';

type MessageOf<T extends SupervisorInbox['type']> = Extract<SupervisorInbox, { type: T }>;

export interface SupervisorOptions {
  readonly instances: readonly InstanceOptions[];
  /** How many checkpoints' host memory is kept for the next ones of the same size. */
  readonly spareCheckpoints: number;
}

const observerLimit = 16;

/**
 * The root of the cluster's actors. It keeps the ledgers of ranks, instances and checkpoints, and runs registrations
 * and updates beside its mailbox. It holds nothing that ranks and instances could not tell it again.
 */
export class SupervisorActor implements Actor<SupervisorInbox> {
  readonly #options: SupervisorOptions;
  readonly #ports: SupervisorPorts;
  readonly #members = new Members();
  readonly #instances = new Instances();
  readonly #works = new Works();
  readonly #communicators = new CommunicatorKeepers();
  readonly #shelf: CheckpointShelf;
  readonly #checkpoints: Checkpoints;
  readonly #processes: RankProcesses;
  readonly #observers: ActorRef<ObserverMessage>[] = [];
  readonly #bridges: BridgeGroups;
  readonly #waiters = new ReadyWaiters(this.#instances, this.#members);
  #planner!: ActorRef<PlannerMessage>;
  #swarm!: ActorRef<SwarmMessage>;
  readonly #updates = new Updates();
  #epoch = 0;

  /** `shelf`: for those who want to look into it. */
  constructor(
    options: SupervisorOptions,
    ports: SupervisorPorts,
    shelf = new CheckpointShelf(options.spareCheckpoints),
  ) {
    this.#options = options;
    this.#ports = ports;
    this.#shelf = shelf;
    this.#bridges = new BridgeGroups((instance) => ports.engineClient(instance));
    const forgotten = new ForgottenSegments();
    this.#checkpoints = new Checkpoints(shelf, this.#members, forgotten, (set) => ports.segmentName(set));
    this.#processes = new RankProcesses(this.#members, ports, forgotten, {
      onLost: (rank, reason, returns) => this.#loseRank(rank, reason, returns),
      onReady: (rank) => {
        this.#communicators.lose(rank);
        this.#updates.sourceReady(rank);
        this.#answerWaiting();
      },
      onMemoryLost: (host, context) => this.#checkpoints.memoryLost(host, context),
      onFatal: (rank, error) => this.#giveUp(rank, error),
    });
  }

  started(context: Context<SupervisorInbox>): void {
    this.#planner = context.spawn('planner', () => new PlannerActor(this.#ports));
    this.#checkpoints.started(this.#planner);
    this.#swarm = context.spawn('swarm', () => new SwarmActor(), swarmSpawnOptions);
    for (const instance of this.#options.instances) this.#join(instance, context);
  }

  receive(message: SupervisorInbox, context: Context<SupervisorInbox>): void {
    switch (message.type) {
      case 'register':
        return this.#register(message, context);
      case 'unregister':
        return this.#unregister(message, context);
      case 'reserve':
        return this.#reserve(message, context);
      case 'cancel-reservation':
        this.#checkpoints.cancelReservation(message.reservation, context);
        return context.reply(message, {});
      case 'release-spare':
        return this.#releaseSpare(message, context);
      case 'writer-down':
        return this.#checkpoints.writerDown(message.writer, context);
      case 'update':
        return this.#update(message, context);
      case 'export-metas':
        return this.#exportMetas(message, context);
      case 'add-instance':
        return this.#addInstance(message, context);
      case 'remove-instance':
        return this.#removeInstance(message, context);
      case 'bridge-open':
        this.#instances.bridgeOpen(message.instance, message.bridge);
        return this.#answerWaiting();
      case 'engines-touched':
        return this.#instances.touched(message.instances);
      case 'work-ended':
        this.#works.end(message.work);
        this.#updates.ended(message.work);
        return message.settle();
      case 'cancel':
        this.#works.abortAll(new AbortedError(message.reason));
        return context.reply(message, {});
      case 'status':
        return context.reply(message, this.#status());
      case 'await-ready':
        this.#waiters.add({
          instances: this.#instances.names,
          reply: context.deferReply(message),
          onFailure: () => {},
        });
        return this.#answerWaiting();
      case 'subscribe':
        if (this.#observers.length < observerLimit) this.#observers.push(message.observer);
        return context.reply(message, {});
      case 'progress':
        for (const observer of this.#observers) {
          context.tell(observer, { type: 'observe', progress: message.progress });
        }
        return;
      case 'launch-rank':
        return this.#processes.startAgain(message.rank, context);
      case 'rank-ready':
        return this.#processes.ready(message, context);
      case 'rank-failed':
        return this.#giveUp(message.rank, fromWire(message.error));
      case 'rank-down':
        return this.#processes.down(message);
      case 'rank-exited':
        return this.#processes.exited(message, context);
    }
  }

  async stopping(): Promise<void> {
    this.#works.abortAll(new AbortedError('the cluster is stopping'));
    await this.#processes.stopAll();
  }

  // ── instances come and go ────────────────────────────────────────────────────────────────────────────────────

  #join(instance: InstanceOptions, context: Context<SupervisorInbox>): void {
    this.#instances.add(instance);
    this.#bridges.open(instance, context);
    this.#processes.add(instance, context);
  }

  #addInstance(message: MessageOf<'add-instance'>, context: Context<SupervisorInbox>): void {
    const { instance } = message;
    const taken = instance.ranks.find((rank) => this.#members.has(rank));
    try {
      if (taken !== undefined) throw new UsageError(`rank ${taken} is in the cluster already`);
      this.#join(instance, context);
    } catch (thrown) {
      context.fail(asFailure(thrown));
      return;
    }
    const onFailure = () => void this.#dismiss(instance, context);
    this.#waiters.add({ instances: [instance.name], reply: context.deferReply(message), onFailure });
  }

  #removeInstance(message: MessageOf<'remove-instance'>, context: Context<SupervisorInbox>): void {
    const { instance: name } = message;
    let instance: InstanceOptions;
    try {
      instance = this.#instances.options(name);
      this.#works.checkFree({ kind: 'update', checkpoint: '', instances: [name] });
    } catch (thrown) {
      context.fail(asFailure(thrown));
      return;
    }
    const reply = context.deferReply(message);
    void this.#dismiss(instance, context).then(() => reply.succeed({}));
    this.#answerWaiting();
  }

  /** Resolves when its rank processes have ended. */
  #dismiss(instance: InstanceOptions, context: Context<SupervisorInbox>): Promise<void> {
    this.#instances.remove(instance.name);
    this.#bridges.close(instance, context);
    return this.#processes.remove(instance);
  }

  // ── registrations and updates ────────────────────────────────────────────────────────────────────────────────

  #register(message: MessageOf<'register'>, context: Context<SupervisorInbox>): void {
    const { checkpoint, source } = message;
    beginWork(this.#works, context.deferReply(message), context, () => {
      try {
        const ranks = this.#members.allJoined();
        if (ranks.length === 0) {
          // Those that are left may do.
          this.#checkAlive(this.#instances.names);
          throw new UsageError(`there is no rank that could hold ${checkpoint}`);
        }
        const what = `registering ${checkpoint}`;
        const work = this.#works.prepare({ kind: 'registration', what, checkpoint, instances: [] }, ranks);
        return { work, ...this.#checkpoints.register(message, ranks, context, work.abort.signal) };
      } catch (error) {
        if (source.kind === 'written') this.#checkpoints.putBack(source.reservation, context);
        throw error;
      }
    });
  }

  #unregister(message: MessageOf<'unregister'>, context: Context<SupervisorInbox>): void {
    const { checkpoint } = message;
    this.#answer(message, context, () => {
      this.#works.checkFree({ kind: 'unregistration', checkpoint, instances: [] });
      this.#checkpoints.unregister(checkpoint, context);
      return {};
    });
  }

  #reserve(message: MessageOf<'reserve'>, context: Context<SupervisorInbox>): void {
    const { checkpoint } = message;
    this.#answer(message, context, () => {
      // What cannot be registered now need not be written first.
      this.#works.checkFree({ kind: 'registration', checkpoint, instances: [] });
      return this.#checkpoints.reserve(message, context);
    });
  }

  /** Answers at once; a throw is the answer too. */
  #answer<Q extends SupervisorInbox & Request<unknown>>(
    message: Q,
    context: Context<SupervisorInbox>,
    make: () => ReplyOf<Q>,
  ): void {
    try {
      context.reply(message, make());
    } catch (thrown) {
      context.fail(asFailure(thrown));
    }
  }

  #releaseSpare(message: MessageOf<'release-spare'>, context: Context<SupervisorInbox>): void {
    const reply = context.deferReply(message);
    void this.#checkpoints.releaseSpare(context).then((bytes) => reply.succeed({ bytes }));
  }

  #exportMetas(message: MessageOf<'export-metas'>, context: Context<SupervisorInbox>): void {
    const reply = context.deferReply(message);
    this.#checkpoints.exportMetas(message.checkpoint, context).then(
      (exported) => reply.succeed(exported),
      (error) => reply.fail(asFailure(error)),
    );
  }

  #update(message: MessageOf<'update'>, context: Context<SupervisorInbox>): void {
    const { checkpoint, options } = message;
    beginWork(this.#works, context.deferReply(message), context, () => {
      const registered = this.#shelf.get(checkpoint);
      const names = options.instances ?? this.#instances.names;
      if (names.length === 0) throw new UsageError('there is no instance to update');
      this.#checkAlive(names);
      const order = this.#order(registered, names, options, context);
      const whom = options.instances === undefined ? '' : `${names.join(', ')} `;
      const what = `updating ${whom}to ${checkpoint}`;
      const work = this.#works.prepare({ kind: 'update', what, checkpoint, instances: names }, order.ranks);
      const endReading = this.#checkpoints.read(checkpoint, context);
      return {
        work,
        // What ranks receive from other hosts needs host memory too.
        run: this.#updates.run(work, order, context, (once) =>
          this.#checkpoints.withSpareMemory(once, context),
        ),
        commit: ({ report, copies }) => {
          this.#checkpoints.addCopies(checkpoint, copies);
          endReading();
          this.#instances.commit(names, { checkpoint: report.checkpoint, digest: report.digest });
          return report;
        },
        rollback: () => {
          endReading();
          this.#instances.updateFailed(names);
          for (const group of groupsOf(order.ranks)) this.#communicators.of(group).invalidate();
        },
      };
    });
  }

  #order(
    checkpoint: Registered,
    names: readonly string[],
    options: UpdateOptions,
    context: Context<SupervisorInbox>,
  ): UpdateOrder {
    const instances = this.#instances.members(names);
    return {
      checkpoint,
      options,
      exchanges: this.#instances.exchanges(names),
      ranks: this.#members.readyAmong(instances.flatMap((instance) => [...instance.ranks])),
      instances,
      planner: this.#planner,
      swarm: this.#swarm,
      communicators: this.#communicators,
      readyRanks: () => this.#members.allReady(),
      endsAt: context.clock.now() + options.timeoutMilliseconds,
      nextEpoch: () => {
        this.#epoch += 1;
        return this.#epoch;
      },
      onEnginesTouched: () => context.tell(context.self, { type: 'engines-touched', instances: names }),
      onMirrorsUnused: (mirrors: readonly Segment[]) => void this.#checkpoints.forget(mirrors, context),
    };
  }

  /** Throws why one of these instances cannot be updated any more. */
  #checkAlive(names: readonly string[]): void {
    const failure = this.#instances.failureAmong(names);
    if (failure !== null) throw failure;
  }

  // ── ranks that die ───────────────────────────────────────────────────────────────────────────────────────────

  #loseRank(rank: number, reason: string, returns: boolean): void {
    this.#communicators.lose(rank);
    for (const { what, abort } of this.#works.of(rank)) {
      abort.abort(new PeerLostError(`rank ${rank} died (${reason}) while ${what}`));
    }
    this.#updates.sourceLost(rank, reason, returns);
  }

  /** The rank cannot be kept alive, and its instance not be updated any more. What others do goes on. */
  #giveUp(rank: number, error: WeightcastError): void {
    const instance = this.#instances.withRank(rank);
    if (instance === null) return;
    this.#instances.fail(instance, error);
    this.#members.lost(rank);
    for (const { abort } of this.#works.of(rank)) abort.abort(error);
    this.#loseRank(rank, error.message, false);
    this.#answerWaiting();
  }

  #answerWaiting(): void {
    this.#waiters.answer(() => this.#status());
  }

  #status(): ClusterStatus {
    return {
      epoch: this.#epoch,
      ranks: this.#members.status(),
      instances: this.#instances.status(),
      checkpoints: this.#shelf.statuses(),
      spareBytes: this.#shelf.spareBytes,
    };
  }
}
