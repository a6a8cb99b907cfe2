import { toWire } from '../../src/errors.ts';
import { HostDevice } from '../../src/native-bridge/host-device.ts';
import { createLog } from '../../src/observe/log.ts';
import { parseConfiguration } from '../../src/processes/configuration.ts';
import { takeLifeline } from '../../src/processes/lifeline.ts';
import { workerConfiguration } from './configuration.ts';
import { EngineWorker } from './engine-worker.ts';
import type { WorkerCall, WorkerMessage } from './worker-protocol.ts';

/** The process of one engine worker. It ends when the server that started it releases it. */

function tell(message: WorkerMessage): void {
  // The server may have ended already; then standard input has ended too.
  if (process.connected) process.send!(message, () => {});
}

async function answer(worker: EngineWorker, { id, method, call }: WorkerCall): Promise<void> {
  try {
    const result = await worker.methods[method](call as never);
    tell({ type: 'result', id, result });
  } catch (error) {
    tell({ type: 'error', id, error: toWire(error) });
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
    tell({ type: 'ready', deviceUuid: device.uuid });
    await released;
    worker.close();
  } finally {
    device.close();
  }
}

async function main(): Promise<void> {
  const { configuration, released } = await takeLifeline();
  try {
    await serve(
      configuration,
      released.then(() => {}),
    );
  } catch (error) {
    tell({ type: 'failed', error: toWire(error) });
    await released;
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    createLog('engine-worker').error({}, toWire(error).message);
    process.exit(1);
  },
);
