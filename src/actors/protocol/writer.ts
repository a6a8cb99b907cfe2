import { toRank } from './rank.ts';
import type { MessageIn } from './table.ts';

/** A writer of tensors, in the process that owns the cluster. */
export const toWriter = { release: toRank.release };

export type WriterMessage = MessageIn<typeof toWriter>;
