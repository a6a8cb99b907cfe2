import * as z from 'zod';
import { type MessageIn, notice } from './table.ts';
import { milliseconds, rank } from './values.ts';

/** What the supervisor tells the agent of a host. Orders are not answered: how a rank has ended is. */
export const toAgent = {
  /** `order`: `RankOrder` of processes/configuration.ts. */
  launch: notice('launch', {
    rank,
    node: z.string(),
    role: z.string(),
    order: z.record(z.string(), z.unknown()),
  }),
  /** `isForGood`: it does not come back, and if it was the host's last one, neither does the host's memory. */
  endRank: notice('end-rank', {
    node: z.string(),
    graceMilliseconds: milliseconds.or(z.literal(0)),
    isForGood: z.boolean(),
  }),
  /** The cluster ends. */
  end: notice('end', {}),
};

export type AgentMessage = MessageIn<typeof toAgent>;
