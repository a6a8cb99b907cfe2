import { isDeepStrictEqual } from 'node:util';
import type { Envelope } from '../src/actors/kernel/index.ts';
import { ask, type Question } from '../src/actors/protocol/ask.ts';
import type { CheckpointStatus } from '../src/actors/protocol/checkpoint-values.ts';
import { type Instance, ranksOf } from '../src/actors/protocol/instance.ts';
import type { ClusterStatus } from '../src/actors/protocol/status-values.ts';
import { toSupervisor } from '../src/actors/protocol/supervisor.ts';
import type { UpdateReport } from '../src/actors/protocol/update-values.ts';
import { CheckpointLedger } from '../src/actors/supervisor/checkpoint-ledger.ts';
import { supervisorSpawnOptions } from '../src/actors/supervisor/inbox.ts';
import type { SupervisorPorts } from '../src/actors/supervisor/ports.ts';
import { SupervisorActor } from '../src/actors/supervisor/supervisor.ts';
import type { CheckpointIndex } from '../src/checkpoint/source.ts';
import type { EngineClient } from '../src/engines/engine-client.ts';
import { CheckpointError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';
import { decode, encode } from '../src/transport/codec.ts';
import { elapse } from './clock.ts';
import {
  type ClusterView,
  checkOutcomes,
  checkReportedVersions,
  checkResumed,
  checkUpdatedVersion,
  saysPaused,
} from './invariants.ts';
import type { InFlight } from './network.ts';
import { PendingRequests } from './pending-requests.ts';
import type { SimulatedProcess } from './process.ts';
import type { SeededRandom } from './random.ts';
import { SimulatedRankProcess } from './rank-process.ts';
import { SimulatedUser } from './user.ts';
import { SimulatedWorld, type WorldOptions } from './world.ts';

/** How long its jobs may take to end before that, as in processes/supervisor-process.ts. */
const drainMilliseconds = 15_000;
/** How long the supervisor's process may take to stop. */
const stopMilliseconds = 30_000;
/** The longest that its owner and its ranks need to notice that it is gone. */
const exitMilliseconds = 5;
/** How long its owner takes to start another one. */
const restartMilliseconds = [200, 2_000] as const;

/** A whole cluster in one process under virtual time. The actors are the real ones; everything around them is simulated. */
export class SimulatedCluster implements ClusterView {
  readonly world: SimulatedWorld;
  supervisor: SimulatedProcess;
  /** How long the supervisor takes to read the headers of a checkpoint's files. */
  openMilliseconds = 20;
  readonly #ranks = new Map<number, SimulatedRankProcess>();
  readonly #users: SimulatedUser[] = [];
  #launches = 0;
  /** The supervisor's ledger of checkpoints. */
  shelf: CheckpointLedger;
  /** What outlives the supervisor: its documents, encoded. */
  readonly #documents = new Map<string, Uint8Array>();
  readonly #random: SeededRandom;
  /** By checkpoint name, the file that was registered last. */
  readonly #registered = new Map<string, string>();
  readonly #pending = new PendingRequests();
  /** Engines that an update has asked to pause, until that update is answered. */
  readonly #asked = new Set<string>();
  /** Instances that an update may heal after its answer. */
  readonly #healing = new Set<string>();
  /** Instances whose engines a supervisor that died may have left paused, or an update has, which has said so. */
  readonly #leftPaused = new Set<string>();
  /** No document that a later supervisor would read can be written. */
  isMemoryFull = false;
  #status: ClusterStatus | null = null;

  constructor(options: WorldOptions) {
    this.world = new SimulatedWorld(options);
    const { world } = this;
    world.onSent.push((message) => this.#sent(message));
    this.#random = world.random.stream('owner');
    for (const [number] of world.engines.entries()) {
      if (number >= (options.firstInstances ?? world.engines.length)) break;
      const instance = this.instance(number);
      world.joined.set(instance.name, instance);
    }
    const { process, shelf } = this.#startSupervisor();
    this.supervisor = process;
    this.shelf = shelf;
  }

  #startSupervisor() {
    const { world } = this;
    const process = world.startProcess(world.supervisorNode, [], (error) => {
      world.trace.violated(`the supervisor crashed: ${error.message}`);
    });
    const ports = this.#supervisorPorts(process);
    const { spareCheckpoints } = world.options;
    const shelf = new CheckpointLedger(spareCheckpoints);
    const instances = [...world.joined.values()];
    // Nobody asks for these any more.
    const wanted = new Set(instances.flatMap(ranksOf));
    for (const rank of this.#ranks.values()) if (!wanted.has(rank.rank)) void rank.stop();
    process.system.spawn(
      'supervisor',
      () => new SupervisorActor({ instances, spareCheckpoints }, ports, shelf),
      supervisorSpawnOptions,
    );
    return { process, shelf };
  }

  /** The supervisor dies as of SIGKILL; its owner starts another one, which knows what was registered, unless `forGood`. */
  killSupervisor({ forGood = false } = {}): void {
    const { world, supervisor } = this;
    const { clock, network } = world;
    if (!supervisor.isAlive) return;
    const { node } = supervisor;
    const registered = registeredIn(this.shelf);
    supervisor.kill();
    this.#pending.clear();
    this.#asked.clear();
    for (const { name } of world.engines) this.#leftPaused.add(name);
    for (const { process } of this.#users)
      clock.after(this.#random.between(0, exitMilliseconds), () =>
        network.endSession(process.node, node, 'SIGKILL'),
      );
    for (const rank of this.#ranks.values()) {
      clock.after(this.#random.between(0, exitMilliseconds), () => {
        if (rank.process !== null) network.endSession(rank.node, node, 'SIGKILL');
        rank.supervisorDied();
      });
    }
    if (forGood) return;
    clock.after(exitMilliseconds + this.#random.between(...restartMilliseconds), () => {
      world.incarnation += 1;
      const next = this.#startSupervisor();
      this.supervisor = next.process;
      this.shelf = next.shelf;
      // Its actor is there in the next turn, and before anybody has asked it for anything.
      clock.after(0.01, () => {
        if (!isDeepStrictEqual(registeredIn(next.shelf), registered))
          world.trace.violated('another supervisor does not know what was registered');
      });
      for (const { process } of this.#users)
        if (process.isAlive) network.connect(process.node, next.process.node);
    });
  }

  /** The options with which that engine joins the cluster. */
  instance(number: number): Instance {
    const { options, engines } = this.world;
    const { name } = engines[number]!;
    const pause = options.pauses ? { pause: 'keep' as const } : {};
    return { name, endpoint: name, workers: options.instances[number]!.map((rank) => ({ rank })), ...pause };
  }

  /** The last status that the supervisor sent to a user; null before the first. */
  get status(): ClusterStatus | null {
    return this.#status;
  }

  /** The processes of ranks that have not ended, including those that are still starting. */
  get ranks(): ReadonlyMap<number, SimulatedRankProcess> {
    return this.#ranks;
  }

  get users(): readonly SimulatedUser[] {
    return this.#users;
  }

  /** Starts another process that uses the cluster. */
  user(): SimulatedUser {
    const user = new SimulatedUser(this.world, `cluster~${this.#users.length + 1}`);
    this.#users.push(user);
    return user;
  }

  /** Lets virtual time pass until `work` has settled, and throws if that takes longer than `milliseconds`. */
  async complete<T>(work: Promise<T>, milliseconds = 3_600_000): Promise<T> {
    let outcome: { readonly value: T } | { readonly error: unknown } | null = null;
    work.then(
      (value) => {
        outcome = { value };
      },
      (error) => {
        outcome = { error };
      },
    );
    await this.world.clock.advanceUntil(() => outcome !== null, milliseconds);
    if (outcome === null) throw new Error(`not done after ${milliseconds} ms of virtual time`);
    return work;
  }

  /** Ends all jobs, as the supervisor's process does before it ends. */
  async drain(): Promise<void> {
    const { system } = this.supervisor;
    const supervisor = system.wellKnown<Question<typeof toSupervisor.drain>>(system.node, 'supervisor');
    const options = { deadlineMilliseconds: drainMilliseconds };
    await ask(system, supervisor, toSupervisor.drain, {}, options);
  }

  /** Shuts down all processes. */
  async stop(): Promise<void> {
    if (this.supervisor.isAlive) await this.complete(this.drain().catch(() => {}));
    await this.complete(this.supervisor.stop(stopMilliseconds));
    for (const { process } of this.#users) await this.complete(process.stop(1_000));
  }

  /** Kills all processes, to clean up after a run that failed. */
  abandon(): void {
    for (const { process } of this.#users) process.kill();
    for (const rank of this.#ranks.values()) rank.kill();
    this.supervisor.kill();
  }

  #supervisorPorts(process: SimulatedProcess): SupervisorPorts {
    const { clock } = process;
    // Of a process that is dead nothing is written.
    const change = (apply: () => void) => process.isAlive && apply();
    return {
      launchRank: ({ rank }) => this.#launch(rank),
      memory: {
        incarnation: this.world.incarnation,
        recall: () => new Map([...this.#documents].map(([name, bytes]) => [name, decode(bytes)])),
        write: (name, document) => {
          if (this.isMemoryFull) throw new Error('no space left');
          change(() => this.#documents.set(name, encode(document)));
        },
        writeLarge: async (name, document) => {
          if (this.isMemoryFull) throw new Error('no space left');
          change(() => this.#documents.set(name, encode(document)));
        },
        remove: (name) => change(() => this.#documents.delete(name)),
      },
      engineClient: ({ name }) => this.engineClient(name, clock),
      noteInstance: () => {},
      segmentName: (set) => `checkpoint-${set}-`,
      breathe: async () => {},
      openCheckpoint: async (source) => {
        await elapse(clock, this.openMilliseconds);
        return this.#open(String(source));
      },
    };
  }

  #open(path: string): CheckpointIndex {
    const checkpoint = this.world.options.checkpoints.find((candidate) => candidate.path === path);
    if (checkpoint === undefined) throw new CheckpointError(`${path}: no such file or directory`);
    return checkpoint.index;
  }

  /** The client that an engine's bridge uses. It checks that only updates that include the engine touch it. */
  engineClient(name: string, clock: Clock): EngineClient {
    const client = this.world.engines.find((engine) => engine.name === name)!.client(clock);
    const check = (call: string) => {
      if (this.#pending.includeInstance(name) || this.#healing.has(name)) return;
      if (call === 'resume' && this.#leftPaused.has(name)) return;
      this.world.trace.violated(`${name} got a ${call} request, but no pending update includes it`);
    };
    return {
      ...client,
      pause: (mode, options) => {
        check('pause');
        this.#asked.add(name);
        return client.pause(mode, options);
      },
      resume: (options) => {
        check('resume');
        return client.resume(options);
      },
      update: (order, options) => {
        check('update');
        return client.update(order, options);
      },
    };
  }

  #sent(message: InFlight): void {
    const request = this.#pending.observe(message, this.world.clock.now());
    const { from, envelope } = message;
    if (request?.body.type === 'update') this.#checkResumed(request.body.options.instances, envelope);
    if (from !== this.world.supervisorNode || envelope.kind !== 'reply') return;
    checkReportedVersions(this.world, envelope);
    const body = (envelope.body ?? {}) as Partial<ClusterStatus & UpdateReport & CheckpointStatus>;
    if (body.spareBytes !== undefined) this.#status = body as ClusterStatus;
    const { digest } = body;
    if (request === null || digest === undefined) return;
    const { body: asked, sentAt } = request;
    const { checkpoint } = asked;
    if (asked.type === 'register') {
      // Tensors from memory equal those of some file.
      const { checkpoints } = this.world.options;
      const file =
        asked.source.kind === 'path'
          ? asked.source.path
          : checkpoints.find((one) => one.digest === digest)?.path;
      this.#registered.set(checkpoint, file ?? '');
    } else {
      checkOutcomes(this.world, body as UpdateReport, sentAt);
      const { heal } = asked.options;
      for (const one of heal ? (body as UpdateReport).instances : [])
        if (one.outcome !== 'updated') this.#healing.add(one.name);
      checkUpdatedVersion(this.world, checkpoint, this.#registered.get(checkpoint)!, body as UpdateReport);
    }
  }

  #checkResumed(names: readonly string[] | undefined, envelope: Envelope): void {
    // Said once is enough: a later update may be refused before it touches the engine.
    for (const name of this.#asked) {
      if (!saysPaused(envelope, name)) continue;
      this.#asked.delete(name);
      this.#leftPaused.add(name);
    }
    // What another update has paused is that one's to resume.
    const paused = new Set(
      [...this.#asked].filter(
        (name) => (names?.includes(name) ?? true) && !this.#pending.includeInstance(name),
      ),
    );
    for (const name of paused) this.#asked.delete(name);
    checkResumed(this.world, paused, envelope);
  }

  #launch(rank: number): SimulatedRankProcess {
    const survivor = this.#ranks.get(rank);
    if (survivor !== undefined) return survivor;
    this.#launches += 1;
    const process = new SimulatedRankProcess(this.world, rank, this.#launches, () => {
      if (this.#ranks.get(rank) === process) this.#ranks.delete(rank);
    });
    this.#ranks.set(rank, process);
    return process;
  }
}

/** What is registered, in the order of names. */
function registeredIn(shelf: CheckpointLedger): CheckpointStatus[] {
  return shelf.statuses().sort((one, other) => (one.checkpoint < other.checkpoint ? -1 : 1));
}
