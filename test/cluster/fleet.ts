import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { writeQwen3Model } from '../../scenarios/qwen3-model.ts';
import { type RunningEngine, startReferenceEngine } from '../../scenarios/reference-engine/index.ts';
import { Cluster, type ClusterOptions, type InstanceOptions } from '../../src/index.ts';

/** Several engines, and a cluster that begins with some of them; all real processes. */
export interface Fleet {
  readonly scratch: string;
  readonly cluster: Cluster;
  readonly engines: ReadonlyMap<string, RunningEngine>;
  /** Starts one more engine and lets it join. */
  join(name: string, ranks: readonly number[], host?: string): Promise<RunningEngine>;
  /** Writes a model of the engines' shapes with other weights. */
  makeModel(seed: number): Promise<string>;
}

export interface FleetOptions extends Pick<ClusterOptions, 'hosts' | 'onProgress' | 'listen'> {
  /** The instances that are there from the beginning, with their ranks. */
  readonly instances: Readonly<Record<string, readonly number[]>>;
  readonly bytes?: number;
}

export async function withFleet(options: FleetOptions, use: (fleet: Fleet) => Promise<void>): Promise<void> {
  const { instances, bytes = 8 * 2 ** 20, ...rest } = options;
  const scratch = mkdtempSync(join(tmpdir(), 'weightcast-test-'));
  const namespace = basename(scratch);
  const makeModel = async (seed: number) => {
    const directory = join(scratch, `model-${seed}`);
    await writeQwen3Model({ directory, bytes, seed });
    return directory;
  };
  const ends: (() => Promise<unknown>)[] = [];
  const engines = new Map<string, RunningEngine>();
  try {
    const model = await makeModel(1);
    const start = async (name: string, ranks: readonly number[], host?: string): Promise<InstanceOptions> => {
      const engine = await startReferenceEngine({
        name,
        model,
        ranks: ranks.length,
        deviceNamespace: namespace,
        deviceCapacity: 2 ** 30,
        firstDevice: ranks[0]!,
      });
      ends.push(() => engine.stop());
      engines.set(name, engine);
      return { name, endpoint: engine.endpoint, ranks, ...(host !== undefined && { host }) };
    };
    const first = await Promise.all(Object.entries(instances).map(([name, ranks]) => start(name, ranks)));
    const cluster = await Cluster.start({
      ranks: first.reduce((sum, { ranks }) => sum + ranks.length, 0),
      instances: first,
      devices: { kind: 'host', namespace },
      ...rest,
    });
    ends.push(() => cluster.stop());
    const join = async (name: string, ranks: readonly number[], host?: string) => {
      await cluster.addInstance(await start(name, ranks, host));
      return engines.get(name)!;
    };
    await use({ scratch, cluster, engines, join, makeModel });
  } finally {
    for (const end of ends.reverse()) await end();
    rmSync(scratch, { recursive: true, force: true });
  }
}
