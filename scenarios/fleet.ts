import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { openCheckpoint } from '../src/checkpoint/source.ts';
import { Cluster, type ClusterOptions, type InstanceOptions } from '../src/index.ts';
import { ampleMemory, makeModel } from './model.ts';
import { type RunningEngine, startReferenceEngine } from './reference-engine/index.ts';

/** Several engines and a cluster that starts with some of them, all as real processes. */
export interface Fleet {
  readonly scratch: string;
  readonly cluster: Cluster;
  /** By instance name, including those that have not joined yet. */
  readonly engines: ReadonlyMap<string, RunningEngine>;
  /** Starts another engine without adding it to the cluster. */
  startEngine(name: string, ranks: readonly number[]): Promise<InstanceOptions>;
  /** Starts another engine and adds it to the cluster. */
  join(name: string, ranks: readonly number[]): Promise<RunningEngine>;
  /** Writes a model with the engines' shapes and other weights; returns its directory. */
  makeModel(seed: number): Promise<string>;
  /** Registers a cleanup that runs before the cluster and the engines are stopped. */
  atEnd(end: () => Promise<unknown>): void;
}

export interface FleetOptions extends Pick<ClusterOptions, 'hosts' | 'onProgress' | 'listen'> {
  /** By name, the ranks of the instances that the cluster starts with. An instance with the name of a host runs on it. */
  readonly instances: Readonly<Record<string, readonly number[]>>;
  /** Size of the model. */
  readonly bytes: number;
  /** Part of the scratch directory's name. */
  readonly name: string;
  readonly signal?: AbortSignal;
}

/** Starts a fleet, runs `use` with it, and stops and removes all of it, whether `use` succeeds or not. */
export async function withFleet<T>(options: FleetOptions, use: (fleet: Fleet) => Promise<T>): Promise<T> {
  const { instances, bytes, name: title, signal, ...rest } = options;
  const scratch = mkdtempSync(join(tmpdir(), `weightcast-${title}-`));
  // A namespace per fleet, so that fleets on the same machine do not share devices.
  const namespace = basename(scratch);
  const ends: (() => Promise<unknown>)[] = [];
  const engines = new Map<string, RunningEngine>();
  const model = (seed: number) =>
    makeModel({ directory: join(scratch, `model-${seed}`), bytes, seed }, signal);
  try {
    const shapes = await model(1);
    const deviceCapacity = ampleMemory(await openCheckpoint(shapes));
    const startEngine = async (name: string, ranks: readonly number[]): Promise<InstanceOptions> => {
      const { launcher = [], fabricAddresses = [] } = options.hosts?.[name] ?? {};
      const engine = await startReferenceEngine({
        name,
        model: shapes,
        ranks: ranks.length,
        deviceNamespace: namespace,
        deviceCapacity,
        firstDevice: ranks[0]!,
        launcher,
        ...(launcher.length > 0 && { host: fabricAddresses[0]! }),
      });
      ends.push(() => engine.stop());
      engines.set(name, engine);
      const isElsewhere = options.hosts?.[name] !== undefined;
      return { name, endpoint: engine.endpoint, ranks, ...(isElsewhere && { host: name }) };
    };
    const first = await Promise.all(
      Object.entries(instances).map(([name, ranks]) => startEngine(name, ranks)),
    );
    signal?.throwIfAborted();
    const cluster = await Cluster.start({
      ranks: Object.values(instances).flat().length,
      instances: first,
      devices: { kind: 'host', namespace },
      ...rest,
    });
    ends.push(() => cluster.stop());
    const joinCluster = async (name: string, ranks: readonly number[]) => {
      await cluster.addInstance(await startEngine(name, ranks));
      return engines.get(name)!;
    };
    const atEnd = (end: () => Promise<unknown>) => ends.push(end);
    return await use({ scratch, cluster, engines, startEngine, join: joinCluster, makeModel: model, atEnd });
  } finally {
    await runInOrder(ends.reverse());
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Runs all of them, one after the other, and then rejects with the first failure. */
async function runInOrder(ends: readonly (() => Promise<unknown>)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const end of ends) await end().catch((error) => failures.push(error));
  if (failures.length > 0) throw failures[0];
}
