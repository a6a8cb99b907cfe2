import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { writeQwen3Model } from '../../scenarios/qwen3-model.ts';
import {
  type ReferenceEngineOptions,
  type RunningEngine,
  startReferenceEngine,
} from '../../scenarios/reference-engine/index.ts';
import { supervisorPid } from '../../scenarios/supervisor-pid.ts';
import {
  Cluster,
  type ClusterOptions,
  type ClusterStatus,
  type InstanceOptions,
  PeerLostError,
} from '../../src/index.ts';
import { type Scope, temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { eventually } from '../eventually.ts';

export { isRunning } from '../../src/processes/is-running.ts';
export { eventually, supervisorPid };

/** Resolves with the status that another supervisor gives after the last one has died. */
export async function afterSupervisor(cluster: Cluster): Promise<ClusterStatus> {
  let status: ClusterStatus | null = null;
  await eventually('another supervisor answers', async () => {
    status = await cluster.status().catch((error) => {
      // What was asked before the death was noticed.
      if (error instanceof PeerLostError) return null;
      throw error;
    });
    return status !== null;
  });
  return status!;
}

export const pidsOf = ({ ranks }: ClusterStatus) => ranks.map(({ pid }) => pid!);

/** Kills the supervisor, and resolves when another one answers. */
export function replaceSupervisor(cluster: Cluster): Promise<ClusterStatus> {
  process.kill(supervisorPid(), 'SIGKILL');
  return afterSupervisor(cluster);
}

/** Directories in /dev/shm that a process holds. */
export function directoriesOf(pid: number): string[] {
  const paths = readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      return [];
    }
  });
  return paths.flatMap((path) => /^(\/dev\/shm\/weightcast-[^/]+)\/lock$/.exec(path)?.[1] ?? []);
}

export function parentOf(pid: number): number {
  return Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]);
}

/** A scratch directory, and an engine with dummy weights and a cluster on the same devices, all as real processes. */
export interface Bench {
  readonly scratch: string;
  readonly deviceNamespace: string;
  readonly engine: RunningEngine;
  readonly cluster: Cluster;
  /** Writes a model of the engine's shapes with weights of its own, and resolves with its directory. */
  makeModel(seed: number): Promise<string>;
}

export interface BenchOptions {
  readonly ranks: number;
  readonly bytes?: number;
  readonly deviceCapacity?: number;
  readonly faults?: ReferenceEngineOptions['faults'];
  readonly keepsParts?: boolean;
  /** Whether the engine has a draft model, and whether the cluster's options declare one. */
  readonly draftModel?: { readonly exists: boolean; readonly isDeclared: boolean };
  readonly onProgress?: ClusterOptions['onProgress'];
  /** Further options of the instance. */
  readonly instance?: Partial<InstanceOptions>;
}

export async function startBench(test: Scope, options: BenchOptions): Promise<Bench> {
  const {
    ranks,
    bytes = 8 * 2 ** 20,
    deviceCapacity = 2 ** 27,
    faults,
    keepsParts = false,
    onProgress,
    draftModel,
    instance,
  } = options;
  const ends: (() => Promise<unknown>)[] = [];
  test.after(async () => {
    for (const end of ends.reverse()) await end();
  });
  const scratch = temporaryDirectory(test);
  const deviceNamespace = basename(scratch);
  const makeModel = async (seed: number) => {
    const directory = join(scratch, `model-${seed}`);
    await writeQwen3Model({ directory, bytes, seed });
    return directory;
  };
  const model = await makeModel(1);
  const engine = await startReferenceEngine({
    name: 'test',
    model,
    ranks,
    deviceNamespace,
    deviceCapacity,
    hasDraftModel: draftModel?.exists ?? false,
    keepsParts,
    ...(faults === undefined ? {} : { faults }),
  });
  ends.push(() => engine.stop());
  const cluster = await Cluster.start({
    ranks,
    instances: [
      {
        name: 'engine',
        endpoint: engine.endpoint,
        ranks: [...Array(ranks).keys()],
        hasDraftModel: draftModel?.isDeclared ?? false,
        ...instance,
      },
    ],
    devices: { kind: 'host', namespace: deviceNamespace },
    ...(onProgress === undefined ? {} : { onProgress }),
  });
  ends.push(() => cluster.stop());
  return { scratch, deviceNamespace, engine, cluster, makeModel };
}
