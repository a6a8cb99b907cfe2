import { z } from 'zod';
import { fabricSource, nextReads, piece } from './join-values.ts';
import { type MessageIn, notice, request } from './table.ts';
import { doubles, epoch, nothing, rank, words } from './values.ts';

/** `swarm` identifies the checkpoint: ranks that receive it at the same time exchange its pieces. */
const swarm = z.string();

export const toSwarm = {
  openSwarm: request('open-swarm', { swarm, epoch, sliceBytes: doubles }, nothing),
  closeSwarm: notice('close-swarm', { swarm, epoch }),
  /** `isComplete`: it holds all of its slices; otherwise it is receiving them. */
  addSource: request('add-source', { swarm, source: fabricSource, isComplete: z.boolean() }, nothing),
  /** `returns`: it is going to be restarted. */
  removeSource: notice('remove-source', { swarm, rank, reason: z.string(), returns: z.boolean() }),
  /** It no longer holds these slices. */
  reduceSource: notice('reduce-source', { swarm, rank, slices: z.array(z.int().nonnegative()) }),
  /** A rank that is a source needs these pieces, most urgent first. */
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
