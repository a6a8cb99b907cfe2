import { deadlines } from '../protocol/deadlines.ts';
import type { UpdateContext } from './context.ts';

/** A worker may copy, quantise and pack as slowly as this: 1 GB in a second. */
const workerLinkBytesPerMillisecond = 1e6;

/**
 * How long one answer of an engine worker may take: post-hooks take longer the more there is to quantise or to pack. Others,
 * whose broadcasts wait for it, are to have half of the time that is left to be updated without it.
 */
export function stepTimeoutOf(update: UpdateContext): number {
  const { checkpoint, options, targets } = update.spec;
  const usual = deadlines.workerLink + Math.ceil(checkpoint.status.bytes / workerLinkBytesPerMillisecond);
  const most = targets.length === 1 ? usual : Math.min(usual, Math.ceil(update.left() / 2));
  return options.stepTimeoutMilliseconds ?? most;
}
