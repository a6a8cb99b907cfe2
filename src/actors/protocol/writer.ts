import { toRank } from './rank.ts';
import type { MessageIn } from './table.ts';

/** Writes tensors into host memory, in the process that started the cluster. */
export const toWriter = { release: toRank.release };

export type WriterMessage = MessageIn<typeof toWriter>;
