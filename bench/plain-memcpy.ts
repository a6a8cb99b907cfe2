import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

const workers: Worker[] = [];

/**
 * Copies `bytes` bytes with the C library's memmove on `threads` threads, between buffers that were touched before.
 * Resolves with bytes per second.
 */
export async function plainMemcpy(bytes: number, threads: number): Promise<number> {
  while (workers.length < threads) workers.push(await startWorker());
  const startedAt = performance.now();
  const ends = workers.slice(0, threads).map((worker) => {
    const end = once(worker, 'message');
    worker.postMessage(bytes / threads);
    return end;
  });
  await Promise.all(ends);
  return bytes / ((performance.now() - startedAt) / 1000);
}

async function startWorker(): Promise<Worker> {
  const worker = new Worker(new URL('memcpy-worker.mjs', import.meta.url), { execArgv: [] });
  worker.unref();
  await once(worker, 'message');
  return worker;
}
