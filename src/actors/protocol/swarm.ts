import * as z from 'zod';
import { fabricSource, nextReads, piece } from './join-values.ts';
import { type MessageIn, notice, request } from './table.ts';
import { doubles, epoch, nothing, rank, words } from './values.ts';

/** Name of the checkpoint: ranks that receive the same one at the same time exchange its pieces. */
const swarm = z.string();

export const toSwarm = {
  openSwarm: request('open-swarm', { swarm, epoch, sliceBytes: doubles }, nothing),
  closeSwarm: notice('close-swarm', { swarm, epoch }),
  /** `isComplete`: it holds every byte of its slices already; otherwise it is about to receive them. */
  addSource: request('add-source', { swarm, source: fabricSource, isComplete: z.boolean() }, nothing),
  /** `isExpectedBack`: the rank restarts, or another one of its host takes over. */
  removeSource: notice('remove-source', { swarm, rank, reason: z.string(), isExpectedBack: z.boolean() }),
  /** The source is alive but has released these slices. */
  reduceSource: notice('reduce-source', { swarm, rank, slices: z.array(z.int().nonnegative()) }),
  /** `pieces`: those that the rank, itself a source, lacks, in the order in which it needs them. */
  joinSwarm: request('join-swarm', { swarm, rank, pieces: words }, nothing),
  nextReads: request(
    'next-reads',
    {
      swarm,
      rank,
      arrived: z.array(piece),
      failed: z.array(z.object({ piece, source: rank, reason: z.string() })),
    },
    nextReads,
  ),
  leaveSwarm: notice('leave-swarm', { swarm, rank }),
};

export type SwarmMessage = MessageIn<typeof toSwarm>;
