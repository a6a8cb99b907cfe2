import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { openCheckpoint } from '../src/checkpoint/source.ts';
import { Cluster, type ClusterOptions, type InstanceOptions } from '../src/index.ts';
import { ampleMemory, makeModel } from './model.ts';
import { type RunningEngine, startReferenceEngine } from './reference-engine/index.ts';

/** Several engines, and a cluster that begins with some of them; all real processes. */
export interface Fleet {
  readonly scratch: string;
  readonly cluster: Cluster;
  /** By instance, those too that have not joined yet. */
  readonly engines: ReadonlyMap<string, RunningEngine>;
  /** Starts one more engine, which the cluster does not know yet. */
  startEngine(name: string, ranks: readonly number[]): Promise<InstanceOptions>;
  /** Starts one more engine and lets it join. */
  join(name: string, ranks: readonly number[]): Promise<RunningEngine>;
  /** Writes a model of the engines' shapes with other weights; returns its directory. */
  makeModel(seed: number): Promise<string>;
  /** Has something done at the end, before the cluster and the engines are stopped. */
  atEnd(end: () => Promise<unknown>): void;
}

export interface FleetOptions extends Pick<ClusterOptions, 'hosts' | 'onProgress' | 'listen'> {
  /** The instances that are there from the beginning, with their ranks. One called as a host is runs on that host. */
  readonly instances: Readonly<Record<string, readonly number[]>>;
  /** Size of the model. */
  readonly bytes: number;
  /** Begins the name of the scratch directory. */
  readonly name: string;
  readonly signal?: AbortSignal;
}

/** Whatever `use` does, nothing of the fleet is left behind. */
export async function withFleet<T>(options: FleetOptions, use: (fleet: Fleet) => Promise<T>): Promise<T> {
  const { instances, bytes, name: title, signal, ...rest } = options;
  const scratch = mkdtempSync(join(tmpdir(), `weightcast-${title}-`));
  // Devices of its own: a fleet must not meet another one on the same machine.
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
      ranks: first.reduce((sum, { ranks }) => sum + ranks.length, 0),
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
    await inOrder(ends.reverse());
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** All of them, one after the other. Rejects with the first failure, when all are through. */
async function inOrder(ends: readonly (() => Promise<unknown>)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const end of ends) await end().catch((error) => failures.push(error));
  if (failures.length > 0) throw failures[0];
}
