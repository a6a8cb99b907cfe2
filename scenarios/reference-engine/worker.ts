import { toWire } from '../../src/errors.ts';
import { HostDevice } from '../../src/native-bridge/host-device.ts';
import { parseConfiguration } from '../../src/processes/configuration.ts';
import { runChild, tell } from './child.ts';
import { workerConfiguration } from './configuration.ts';
import { EngineWorker } from './engine-worker.ts';
import type { WorkerCall, WorkerMessage } from './worker-protocol.ts';

/** The process of one engine worker. It ends when the server that started it releases it. */

async function answer(worker: EngineWorker, { id, method, call }: WorkerCall): Promise<void> {
  try {
    const result = await worker.methods[method](call as never);
    tell<WorkerMessage>({ type: 'result', id, result });
  } catch (error) {
    tell<WorkerMessage>({ type: 'error', id, error: toWire(error) });
  }
}

async function serve(configuration: unknown, released: Promise<void>): Promise<void> {
  const parsed = parseConfiguration(workerConfiguration, configuration);
  const { deviceCapacity: capacity } = parsed;
  const { namespace, device: index } = parsed.place;
  const device = HostDevice.open({ namespace, index, capacity, uploadThreads: 1 });
  try {
    // The server may end while a large model is still being allocated.
    const worker = await Promise.race([EngineWorker.start(parsed, device), released]);
    if (worker === undefined) return;
    process.on('message', (message) => answer(worker, message as WorkerCall));
    tell<WorkerMessage>({ type: 'ready', deviceUuid: device.uuid });
    await released;
    worker.close();
  } finally {
    device.close();
  }
}

runChild('engine-worker', serve);
