import { progress } from './status-values.ts';
import { type MessageIn, request } from './table.ts';
import { nothing } from './values.ts';

/** Receives progress, in the process that started the cluster. */
/** Answered when it may get the next. */
export const toObserver = { progress: request('observe', { progress }, nothing) };

export type ObserverMessage = MessageIn<typeof toObserver>;
