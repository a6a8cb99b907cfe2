import * as z from 'zod';
import type { ActorRef } from '../kernel/index.ts';
import type { AgentMessage } from './agent.ts';
import { type MessageIn, notice, request } from './table.ts';
import { address, nothing, rank } from './values.ts';

/** A rank's process that an agent watches. */
const runningRank = z.object({
  rank,
  node: z.string(),
  pid: z.int(),
  /** What must be the same for it to go on as that rank. */
  role: z.string(),
});
export type RunningRank = z.infer<typeof runningRank>;

const introduction = z.object({
  host: z.string(),
  agent: address,
  /** Of the boot of its machine: one host has one machine. */
  machine: z.string(),
  /** The machine's own name, for messages. */
  machineName: z.string(),
  ranks: z.array(runningRank),
});

/** An agent that has connected, as it introduces itself. */
export interface Introduction extends Readonly<Omit<z.infer<typeof introduction>, 'agent'>> {
  readonly agent: ActorRef<AgentMessage>;
}

/** What agents tell the supervisor's process of their hosts. */
export const toHosts = {
  /** Refused if the cluster has no such host, or another machine is that host now. */
  introduce: request('introduce', introduction.shape, nothing),
  rankEnded: notice('rank-ended', {
    host: z.string(),
    node: z.string(),
    /** Null of one that the agent does not know. */
    pid: z.int().nullable(),
    /** `exit code 1`, `SIGKILL`. */
    how: z.string(),
    /** It did not end by itself when it was asked to. */
    wasKilled: z.boolean(),
  }),
};

export type HostsMessage = MessageIn<typeof toHosts>;
