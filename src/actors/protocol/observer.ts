import { progress } from './status-values.ts';
import { type MessageIn, notice } from './table.ts';

/** An observer of progress, in the process that owns the cluster. */
export const toObserver = { progress: notice('observe', { progress }) };

export type ObserverMessage = MessageIn<typeof toObserver>;
