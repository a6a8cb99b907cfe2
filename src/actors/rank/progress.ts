import type { Progress } from '../protocol/status-values.ts';
import type { Loading } from './loading.ts';
import type { Pipeline } from './pipeline.ts';

/** How far a rank has got with what it does; null if it does nothing that takes long. */
export function progressOf(rank: number, loading: Loading, pipeline: Pipeline | null): Progress | null {
  if (loading.isRunning) return loading.progress(rank);
  if (pipeline === null) return null;
  const { transfer, reloadedBytes } = pipeline;
  const { receiving } = transfer;
  if (receiving.doneBytes < receiving.totalBytes) return { activity: 'receive', rank, ...receiving };
  const totalBytes = transfer.map.plan.bucketBytes.reduce((sum, bytes) => sum + bytes, 0);
  return { activity: 'update', rank, doneBytes: reloadedBytes, totalBytes };
}
