/** Engines that several files of tests share, which scripts/test.mjs runs in one process: they take long to start. */
import { after } from 'node:test';
import { Baseline } from '../../src/index.ts';
import type { Scope } from '../checkpoint/safetensors-files.ts';
import { type Answer, startOnCpu, type VllmServer } from './vllm-server.ts';

/** The ways in which vLLM asks our worker for an update. */
export type Face = 'worker extension' | 'weight-transfer engine';

const weightTransfer = ['--weight-transfer-config', '{"backend": "weightcast"}'];

/** What vLLM is started with for each of them. */
export const faces: Readonly<Record<Face, readonly string[]>> = {
  'worker extension': ['--worker-extension-cls', 'weightcast.worker.VllmWorkerExtension'],
  'weight-transfer engine': weightTransfer,
};

export interface SharedEngine {
  readonly server: VllmServer;
  /** What it answered, and what it held, as it was started. */
  readonly fresh: { readonly answers: readonly Answer[]; readonly baseline: Baseline };
}

/** These are started with an extension that also spoils updates, of two models, so that each tells what is right in the other. */
const spoiler = ['--worker-extension-cls', 'spoiler.Spoiler'];
const starts = {
  'worker extension': { model: 'B', options: spoiler },
  'weight-transfer engine': { model: 'A', options: [...weightTransfer, ...spoiler] },
} as const satisfies Record<Face, object>;

const ends: (() => unknown)[] = [];
const scope: Scope = { after: (end) => void ends.push(end) };
after(async () => {
  await Promise.all(ends.map((end) => end()));
});
const running = new Map<Face, Promise<SharedEngine>>();

async function start(face: Face): Promise<SharedEngine> {
  const { model, options } = starts[face];
  const server = await startOnCpu(scope, model, options);
  const answers = await server.answers();
  return { server, fresh: { answers, baseline: await Baseline.of([{ endpoint: server.endpoint }]) } };
}

/** The model it was started with is A for the weight-transfer engine, B for the worker extension; by now it may hold another. */
export function sharedEngine(face: Face): Promise<SharedEngine> {
  const engine = running.get(face) ?? start(face);
  running.set(face, engine);
  return engine;
}

/** Both, which start at the same time, and what engines answer that are started with each of the models. */
export async function sharedEngines() {
  const [engine, extension] = await Promise.all([
    sharedEngine('weight-transfer engine'),
    sharedEngine('worker extension'),
  ]);
  return {
    engines: { 'worker extension': extension, 'weight-transfer engine': engine },
    ofA: engine.fresh.answers,
    ofB: extension.fresh.answers,
  } as const;
}
