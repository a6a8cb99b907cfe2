import { CheckpointShelf } from '../actors/checkpoint-shelf.ts';
import { supervisorEntrance } from '../actors/entrances.ts';
import { SupervisorActor } from '../actors/supervisor.ts';
import type { SupervisorPorts } from '../actors/supervisor-ports.ts';
import type { CheckpointIndex } from '../checkpoint/source.ts';
import { CheckpointError } from '../errors.ts';
import { elapse } from './device.ts';
import { checkReports } from './invariants.ts';
import type { SimulatedProcess } from './process.ts';
import { SimulatedRankProcess } from './rank-process.ts';
import { SimulatedUser } from './user.ts';
import { SimulatedWorld, type WorldOptions } from './world.ts';

/** How long the supervisor's process is given to end. */
const stopMilliseconds = 30_000;

/** A whole cluster in one process under virtual time: the actors are the real ones, the world is not. */
export class SimulatedCluster {
  readonly world: SimulatedWorld;
  readonly supervisor: SimulatedProcess;
  readonly #ranks = new Map<number, SimulatedRankProcess>();
  readonly #users: SimulatedUser[] = [];
  #lives = 0;
  /** The supervisor's ledger of checkpoints. */
  readonly shelf: CheckpointShelf;

  constructor(options: WorldOptions) {
    this.world = new SimulatedWorld(options);
    const { world } = this;
    world.onSent.push(({ from, envelope }) => {
      if (from !== world.supervisorNode) return;
      checkReports(world, envelope);
    });
    this.supervisor = world.startProcess(world.supervisorNode, [], (error) => {
      world.trace.violated(`the supervisor crashed: ${error.message}`);
    });
    const instances = world.engines.map(({ name }, number) => {
      const pause = options.pauses ? { pause: 'keep' as const } : {};
      return { name, endpoint: name, ranks: options.instances[number]!, ...pause };
    });
    const ports = this.#supervisorPorts();
    const { spareCheckpoints } = options;
    this.shelf = new CheckpointShelf(spareCheckpoints);
    this.supervisor.system.spawn(
      'supervisor',
      () => new SupervisorActor({ instances, spareCheckpoints }, ports, this.shelf),
      supervisorEntrance,
    );
  }

  /** The processes of ranks that have not ended, started or not. */
  get ranks(): ReadonlyMap<number, SimulatedRankProcess> {
    return this.#ranks;
  }

  get users(): readonly SimulatedUser[] {
    return this.#users;
  }

  /** The next process that uses the cluster. */
  user(): SimulatedUser {
    const user = new SimulatedUser(this.world, `cluster~${this.#users.length + 1}`);
    this.#users.push(user);
    return user;
  }

  /** Lets virtual time pass until `work` is done; throws if it is not within the time. */
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

  /** Ends all processes in order. */
  async stop(): Promise<void> {
    await this.complete(this.supervisor.stop(stopMilliseconds));
    for (const { process } of this.#users) await this.complete(process.stop(1_000));
  }

  /** Ends all processes where they stand; for a run that is given up. */
  abandon(): void {
    for (const { process } of this.#users) process.kill();
    for (const rank of this.#ranks.values()) rank.kill();
    this.supervisor.kill();
  }

  #supervisorPorts(): SupervisorPorts {
    const { clock } = this.supervisor;
    return {
      launchRank: (rank) => this.#launch(rank),
      engineClient: ({ name }) => this.world.engines.find((engine) => engine.name === name)!.client(clock),
      segmentName: (set) => `checkpoint-${set}-`,
      openCheckpoint: async (source) => {
        await elapse(clock, 20);
        return this.#open(String(source));
      },
    };
  }

  #open(path: string): CheckpointIndex {
    const checkpoint = this.world.options.checkpoints.find((candidate) => candidate.path === path);
    if (checkpoint === undefined) throw new CheckpointError(`${path}: no such file or directory`);
    return checkpoint.index;
  }

  #launch(rank: number): SimulatedRankProcess {
    this.#lives += 1;
    const process = new SimulatedRankProcess(this.world, rank, this.#lives, () => {
      if (this.#ranks.get(rank) === process) this.#ranks.delete(rank);
    });
    this.#ranks.set(rank, process);
    return process;
  }
}
