import * as z from 'zod';
import { type MessageIn, notice } from './table.ts';
import { milliseconds, rank } from './values.ts';

/** What the supervisor tells the agent of a host. Orders are not answered: that a rank has ended is, or does not run. */
export const toAgent = {
  /** `order`: `RankOrder` of processes/configuration.ts. */
  launch: notice('launch', {
    rank,
    node: z.string(),
    role: z.string(),
    order: z.record(z.string(), z.unknown()),
  }),
  /** `isForGood`: it was the last one that is placed on the host, and its memory goes with what runs there. */
  endRank: notice('end-rank', {
    node: z.string(),
    graceMilliseconds: milliseconds.or(z.literal(0)),
    isForGood: z.boolean(),
  }),
  /** The cluster ends. */
  end: notice('end', {}),
};

export type AgentMessage = MessageIn<typeof toAgent>;
