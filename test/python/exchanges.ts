import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import type { TestContext } from 'node:test';
import type { WorkerLink } from '../../src/engines/worker-link/worker-link.ts';
import type { HostDevice } from '../../src/native-bridge/host-device.ts';
import { bindLink, never } from '../engines/harness.ts';
import { bindCheckpointEngineLink } from '../engines/scripted-worker.ts';
import { TestHost } from '../native/harness.ts';
import { originalWorker, PythonWorker, type WorkerFault } from './engine-worker.ts';
import { missingPython } from './python-interpreter.ts';

/** Why tests of our worker cannot run here, or false. */
export const skip = missingPython('torch', 'zmq', 'msgpack');
/** The path of checkpoint-engine's. */
export const original = skip ? null : originalWorker();
/** Why tests of checkpoint-engine's cannot run here, or false. */
export const skipOriginal =
  skip ||
  (original === null &&
    'checkpoint-engine is not installed, and WEIGHTCAST_CHECKPOINT_ENGINE names no checkout of it');

export const tensors = [{ name: 'norm', dtype: 'F32', shape: [2, 2], offset: 256 }];

export type Kind = 'weightcast' | 'original';

export async function startWorker(t: TestContext, kind: Kind): Promise<PythonWorker> {
  return kind === 'weightcast'
    ? PythonWorker.start(t, 'weightcast_worker.py', ['cpu', 'vllm', '60'])
    : PythonWorker.start(t, 'original_worker.py', [original!, 'cpu']);
}

export async function bind(
  t: TestContext,
  kind: Kind,
  device: HostDevice,
  timeoutMilliseconds = never,
): Promise<WorkerLink> {
  return kind === 'weightcast'
    ? bindLink(t, { deviceUuid: device.uuid, timeoutMilliseconds })
    : bindCheckpointEngineLink(t, { timeoutMilliseconds });
}

/** A rank and a worker that is in the exchange and has loaded one bucket. */
export async function connected(
  t: TestContext,
  kind: Kind,
  fault: WorkerFault | null,
  timeoutMilliseconds?: number,
) {
  const device = new TestHost(t).device({ capacity: 2 ** 22 });
  const buffer = device.allocate(1_024);
  const worker = await startWorker(t, kind);
  const link = await bind(t, kind, device, timeoutMilliseconds);
  worker.command({ links: { [device.uuid]: link.address }, ...(fault && { fault }) });
  await link.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
  await link.load(tensors);
  return { device, buffer, worker, link };
}

export function mapsDeviceMemory(worker: PythonWorker): boolean {
  return readFileSync(`/proc/${worker.process.pid}/maps`, 'utf8').includes('weightcast-device');
}

/** The worker's process lives, and its next update is as if nothing had been. */
export async function worksAgain(
  t: TestContext,
  kind: Kind,
  worker: PythonWorker,
  device: HostDevice,
): Promise<void> {
  const link = await bind(t, kind, device);
  const buffer = device.allocate(1_024);
  worker.command({ links: { [device.uuid]: link.address } });
  await link.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
  await link.load(tensors);
  assert.ok(mapsDeviceMemory(worker));
  await link.release();
  assert.ok(!mapsDeviceMemory(worker));
  buffer.free();
  await link.finish();
  assert.equal((await worker.ended()).ended, 'installed');
}
