import { progress } from './status-values.ts';
import { type MessageIn, notice } from './table.ts';

/** Receives progress, in the process that started the cluster. */
export const toObserver = { progress: notice('observe', { progress }) };

export type ObserverMessage = MessageIn<typeof toObserver>;
