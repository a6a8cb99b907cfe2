import { readdirSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { writeQwen3Model } from '../../scenarios/qwen3-model.ts';
import {
  type ReferenceEngineOptions,
  type RunningEngine,
  startReferenceEngine,
} from '../../scenarios/reference-engine/index.ts';
import { Daemon, type DaemonOptions } from '../../src/daemon/daemon.ts';
import { type Scope, temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { type Answer, ask } from './ask.ts';

/** A daemon in this process, and an engine with dummy weights on its devices that is not added yet. */
export interface DaemonBench {
  readonly scratch: string;
  readonly engine: RunningEngine;
  readonly daemon: Daemon;
  /** What is added: the engine by the name `a`. */
  readonly instance: { readonly name: string; readonly endpoint: string; readonly ranks: readonly number[] };
  ask(method: string, path: string, body?: unknown): Promise<Answer>;
  /** Writes a model of the engine's shapes with weights of its own, and resolves with its directory. */
  makeModel(seed: number): Promise<string>;
}

/**
 * A daemon in this process, with its socket in `scratch`, its only root, and host devices of its own. It ends with the
 * test.
 */
export async function startDaemon(
  test: Scope,
  scratch: string,
  { cluster, ...options }: Partial<DaemonOptions> = {},
): Promise<Daemon> {
  const daemon = await Daemon.start({
    version: '0.0.0-test',
    socket: join(scratch, 'daemon.sock'),
    roots: [scratch],
    allowEngines: [],
    instances: [],
    ...options,
    cluster: { devices: { kind: 'host', namespace: basename(scratch) }, threads: 1, ...cluster },
  });
  test.after(() => daemon.stop());
  return daemon;
}

export async function startDaemonBench(
  test: Scope,
  options: Partial<DaemonOptions> = {},
  faults?: ReferenceEngineOptions['faults'],
): Promise<DaemonBench> {
  const scratch = temporaryDirectory(test);
  const namespace = basename(scratch);
  const makeModel = async (seed: number) => {
    const directory = join(scratch, `model-${seed}`);
    await writeQwen3Model({ directory, bytes: 8 * 2 ** 20, seed });
    return directory;
  };
  const model = await makeModel(1);
  const engine = await startReferenceEngine({
    name: 'test',
    model,
    ranks: 2,
    deviceNamespace: namespace,
    deviceCapacity: 2 ** 27,
    ...(faults && { faults }),
  });
  test.after(() => engine.stop());
  const daemon = await startDaemon(test, scratch, options);
  return {
    scratch,
    engine,
    daemon,
    instance: { name: 'a', endpoint: engine.endpoint, ranks: [0, 1] },
    ask: (method, path, body) => ask(daemon.socket, method, path, body),
    makeModel,
  };
}

/** Directories in shared memory that a process has open. */
export function sharedOf(pid: number): string[] {
  const paths = readdirSync(`/proc/${pid}/fd`).flatMap((descriptor) => {
    try {
      return [readlinkSync(`/proc/${pid}/fd/${descriptor}`)];
    } catch {
      return [];
    }
  });
  return [
    ...new Set(paths.flatMap((path) => /^(\/dev\/shm\/weightcast-[^/]+)\/lock$/.exec(path)?.[1] ?? [])),
  ];
}
