import {
  AbortedError,
  asFailure,
  fromWire,
  PeerLostError,
  UsageError,
  type WeightcastError,
} from '../errors.ts';
import { CommunicatorKeeper } from './communicator-keeper.ts';
import { ForgottenSegments } from './forgotten-segments.ts';
import type { Actor, ActorRef, Context, Reply } from './kernel/index.ts';
import { RestartIntensity } from './kernel/index.ts';
import { Members } from './members.ts';
import type {
  BridgeMessage,
  ClusterStatus,
  ObserverMessage,
  PlannerMessage,
  RankMessage,
  Registered,
  Segment,
  SupervisorMessage,
  UpdateReport,
} from './messages.ts';
import { PlannerActor } from './planner.ts';
import { registerCheckpoint } from './registration.ts';
import type { InstanceOptions, SupervisorPorts } from './supervisor-ports.ts';
import { Update } from './update.ts';
import { VllmBridgeActor } from './vllm-bridge.ts';

type MessageOf<T extends SupervisorMessage['type']> = Extract<SupervisorMessage, { type: T }>;

export interface SupervisorOptions {
  readonly worldSize: number;
  readonly instances: readonly InstanceOptions[];
}

/** A piece of work and what its end means; a throw before `run` exists means that it never began. */
interface Work<T, R> {
  readonly run: Promise<T>;
  readonly commit: (value: T) => R;
  readonly rollback: () => void;
}

/** A rank that dies is started again this often; one more within the time and the cluster ends with its reason. */
const rankRestarts = {
  restarts: 3,
  withinMilliseconds: 60_000,
  backoffMilliseconds: 200,
  maximumBackoffMilliseconds: 5_000,
};

/** Registered checkpoints hold host memory; more than this is a leak and not a plan. */
const checkpointLimit = 16;
const observerLimit = 16;

/**
 * The root of the cluster's actors. It starts the rank processes, keeps the ledger of members and versions, and runs
 * one registration or update at a time. It holds nothing that ranks and instances could not tell it again.
 */
export class SupervisorActor implements Actor<SupervisorMessage> {
  readonly #options: SupervisorOptions;
  readonly #ports: SupervisorPorts;
  readonly #members: Members;
  readonly #checkpoints = new Map<string, Registered>();
  readonly #forgotten = new ForgottenSegments();
  readonly #restarts = new Map<number, RestartIntensity>();
  readonly #observers: ActorRef<ObserverMessage>[] = [];
  #planner!: ActorRef<PlannerMessage>;
  #epoch = 0;
  readonly #communicator = new CommunicatorKeeper();
  #registrations = 0;
  /** The registration or update that is running. */
  #work: { readonly what: string; readonly abort: AbortController } | null = null;
  #waitingForReady: Reply<ClusterStatus>[] = [];
  /** Set when a rank cannot be kept alive; whatever is asked from then on fails with it. */
  #fatal: WeightcastError | null = null;

  constructor(options: SupervisorOptions, ports: SupervisorPorts) {
    this.#options = options;
    this.#ports = ports;
    this.#members = new Members(options.worldSize);
  }

  started(context: Context<SupervisorMessage>): void {
    this.#planner = context.spawn('planner', () => new PlannerActor(this.#ports));
    for (const instance of this.#options.instances) {
      const bridge = context.spawn<BridgeMessage>(`bridge-${instance.name}`, () => {
        return new VllmBridgeActor(this.#ports.engineClient(instance));
      });
      this.#members.addInstance(instance, bridge);
    }
    for (let rank = 0; rank < this.#options.worldSize; rank += 1) {
      this.#restarts.set(rank, new RestartIntensity(rankRestarts, context.clock, context.random));
      this.#launch(rank, context);
    }
  }

  receive(message: SupervisorMessage, context: Context<SupervisorMessage>): void {
    switch (message.type) {
      case 'register':
        return this.#register(message, context);
      case 'update':
        return this.#update(message, context);
      case 'engines-touched':
        return this.#members.enginesTouched();
      case 'work-ended':
        this.#work = null;
        return message.settle();
      case 'cancel':
        this.#work?.abort.abort(new AbortedError(message.reason));
        return context.reply(message, {});
      case 'status':
        return context.reply(message, this.#status());
      case 'await-ready':
        this.#waitingForReady.push(context.deferReply(message));
        return this.#answerReady();
      case 'subscribe':
        if (this.#observers.length < observerLimit) this.#observers.push(message.observer);
        return context.reply(message, {});
      case 'progress':
        for (const observer of this.#observers) {
          context.tell(observer, { type: 'observe', progress: message.progress });
        }
        return;
      case 'launch-rank':
        return this.#launch(message.rank, context);
      case 'rank-ready':
        return this.#rankReady(message, context);
      case 'rank-failed':
        return this.#giveUp(fromWire(message.error));
      case 'rank-down':
        return this.#rankDown(message.rank, message.ref, message.reason);
      case 'rank-exited':
        return this.#rankExited(message, context);
    }
  }

  async stopping(): Promise<void> {
    this.#work?.abort.abort(new AbortedError('the cluster is stopping'));
    await Promise.allSettled(this.#members.processes().map((process) => process.stop()));
  }

  // ── registrations and updates, one at a time ─────────────────────────────────────────────────────────────────

  #register(message: MessageOf<'register'>, context: Context<SupervisorMessage>): void {
    const { checkpoint, source } = message;
    this.#start(`registering ${checkpoint}`, context, context.deferReply(message), (signal) => {
      if (this.#checkpoints.size >= checkpointLimit && !this.#checkpoints.has(checkpoint)) {
        throw new UsageError(
          `${checkpointLimit} checkpoints are registered; there is no room for ${checkpoint}`,
        );
      }
      this.#registrations += 1;
      const segmentPrefix = this.#ports.segmentPrefix(this.#registrations);
      const ranks = this.#members.readyRanks();
      let made: readonly Segment[] = [];
      const onLoading = (segments: readonly Segment[]) => {
        made = segments;
      };
      const order = { checkpoint, source, segmentPrefix, ranks, planner: this.#planner, onLoading };
      return {
        run: registerCheckpoint(context, order, signal),
        commit: (registered: Registered) => {
          this.#replaceCheckpoint(checkpoint, registered, context);
          return registered.status;
        },
        rollback: () => this.#forget(made, context),
      };
    });
  }

  /** Only now, with the new one whole, does the old checkpoint of that name go. */
  #replaceCheckpoint(name: string, registered: Registered, context: Context<SupervisorMessage>): void {
    const old = this.#checkpoints.get(name);
    this.#checkpoints.set(name, registered);
    if (old === undefined) return;
    const kept = new Set(registered.segments.map(({ path }) => path));
    this.#forget(
      old.segments.filter(({ path }) => !kept.has(path)),
      context,
    );
    if (old.layout !== registered.layout)
      context.tell(this.#planner, { type: 'forget-layout', layout: old.layout });
  }

  #forget(segments: readonly Segment[], context: Context<SupervisorMessage>): void {
    const pathsOf = this.#forgotten.add(segments);
    for (const { ref, host } of this.#members.ready()) {
      const paths = pathsOf.get(host);
      if (paths !== undefined) context.tell(ref, { type: 'forget', segments: [...paths] });
    }
  }

  #update(message: MessageOf<'update'>, context: Context<SupervisorMessage>): void {
    const { options } = message;
    this.#start(`updating to ${message.checkpoint}`, context, context.deferReply(message), (signal) => {
      const checkpoint = this.#checkpoints.get(message.checkpoint);
      if (checkpoint === undefined) throw new UsageError(`no checkpoint ${message.checkpoint} is registered`);
      const ranks = this.#members.readyRanks();
      const order = {
        checkpoint,
        options,
        ranks,
        instances: this.#members.instances(),
        planner: this.#planner,
        nextEpoch: () => {
          this.#epoch += 1;
          return this.#epoch;
        },
        communicator: this.#communicator,
        onEnginesTouched: (epoch: number) => context.tell(context.self, { type: 'engines-touched', epoch }),
      };
      return {
        run: new Update(context, order, signal).run(),
        commit: (report: UpdateReport) => {
          this.#members.commit({ checkpoint: report.checkpoint, digest: report.digest });
          return report;
        },
        rollback: () => {
          this.#members.updateFailed();
          this.#communicator.updateFailed();
        },
      };
    });
  }

  /** Runs work beside the mailbox; its outcome changes state in the mailbox, before the reply is sent. */
  #start<T, R>(
    what: string,
    context: Context<SupervisorMessage>,
    reply: Reply<R>,
    begin: (signal: AbortSignal) => Work<T, R>,
  ): void {
    const abort = new AbortController();
    let work: Work<T, R>;
    try {
      if (this.#fatal !== null) throw this.#fatal;
      if (this.#work !== null) throw new UsageError(`the cluster is busy ${this.#work.what}`);
      work = begin(abort.signal);
    } catch (thrown) {
      reply.fail(asFailure(thrown));
      return;
    }
    this.#work = { what, abort };
    const succeed = (value: T) => reply.succeed(work.commit(value));
    const fail = (error: WeightcastError) => {
      work.rollback();
      // What went wrong after an abort did so because of it.
      reply.fail(abort.signal.aborted ? asFailure(abort.signal.reason) : error);
    };
    context.pipe(
      work.run,
      (value) => ({ type: 'work-ended', settle: () => succeed(value) }),
      (error) => ({ type: 'work-ended', settle: () => fail(error) }),
    );
  }

  // ── rank processes ───────────────────────────────────────────────────────────────────────────────────────────

  #launch(rank: number, context: Context<SupervisorMessage>): void {
    const process = this.#ports.launchRank(rank);
    this.#members.launched(rank, process);
    const exited = (reason: string) => ({ type: 'rank-exited', rank, reason }) as const;
    context.pipe(process.exited, exited, (error) => exited(error.message));
  }

  #rankReady(message: MessageOf<'rank-ready'>, context: Context<SupervisorMessage>): void {
    const { rank, ref, host, deviceUuid, pid, lastEpoch } = message;
    this.#epoch = Math.max(this.#epoch, lastEpoch);
    this.#members.rankReady({ rank, ref, host, deviceUuid, pid });
    // Those who were there have joined the old one together with the life of the rank that this one replaces.
    this.#communicator.lose();
    const forgotten = this.#forgotten.of(host);
    if (forgotten.length > 0) context.tell(ref, { type: 'forget', segments: [...forgotten] });
    context.watch(ref, ({ reason }) => ({ type: 'rank-down', rank, ref, reason }));
    this.#answerReady();
  }

  #rankDown(rank: number, ref: ActorRef<RankMessage>, reason: string): void {
    if (!this.#members.rankDown(rank, ref)) return;
    this.#loseRank(rank, reason);
    // Its process may live on where nobody reaches it; then it gives everything back, ends, and is started again.
    void this.#members.process(rank)?.stop();
  }

  #rankExited({ rank, reason }: MessageOf<'rank-exited'>, context: Context<SupervisorMessage>): void {
    this.#members.rankDown(rank, null);
    this.#loseRank(rank, reason);
    const delay = this.#restarts.get(rank)!.next();
    if (delay !== null) {
      context.log.warn({ rank, reason, delay }, 'rank process ended; starting it again');
      context.schedule(delay, { type: 'launch-rank', rank });
      return;
    }
    this.#giveUp(new PeerLostError(`rank ${rank} keeps ending (${reason}); it is not started again`));
  }

  #loseRank(rank: number, reason: string): void {
    this.#communicator.lose();
    this.#work?.abort.abort(new PeerLostError(`rank ${rank} died (${reason}) while ${this.#work.what}`));
  }

  #giveUp(error: WeightcastError): void {
    this.#fatal ??= error;
    this.#work?.abort.abort(error);
    this.#answerReady();
  }

  #answerReady(): void {
    if (this.#fatal === null && !this.#members.allReady) return;
    const waiting = this.#waitingForReady;
    this.#waitingForReady = [];
    for (const reply of waiting) {
      if (this.#fatal === null) reply.succeed(this.#status());
      else reply.fail(this.#fatal);
    }
  }

  #status(): ClusterStatus {
    const checkpoints = [...this.#checkpoints.values()].map(({ status }) => status);
    return { epoch: this.#epoch, ...this.#members.status(), checkpoints };
  }
}
