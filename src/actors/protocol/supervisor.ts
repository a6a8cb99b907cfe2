import * as z from 'zod';
import type { ActorRef } from '../kernel/index.ts';
import { checkpointStatus, foreignSource, ownSegment, source } from './checkpoint-values.ts';
import { instance } from './instance.ts';
import type { RankMessage } from './rank.ts';
import { progress, status } from './status-values.ts';
import { type MessageIn, notice, request } from './table.ts';
import { updateReport, updateRequest } from './update-values.ts';
import { address, binary, bytes, doubles, name, nothing, rank } from './values.ts';

const readyRank = z.object({
  rank,
  ref: address,
  deviceUuid: z.string(),
  host: z.string(),
  /** Directory of its host's segments. */
  directory: z.string(),
  /** Changes when the directory was removed and created again. */
  directoryId: z.string(),
  /** The RDMA ports that it uses; none where it has none. */
  nics: z.array(z.string()),
  /** Whether its collective also joins ranks of other hosts (`cluster`), or only those of its own (`host`). */
  collectiveScope: z.enum(['host', 'cluster']),
  pid: z.int(),
  /** The first and the last epoch that its process has seen, and the last one in which its worker loaded something; 0: none. */
  epochs: z.object({
    first: z.int().nonnegative(),
    last: z.int().nonnegative(),
    loaded: z.int().nonnegative(),
  }),
});

/** A rank that owns its device, as it introduces itself. */
export interface ReadyRank extends Readonly<Omit<z.infer<typeof readyRank>, 'ref'>> {
  readonly ref: ActorRef<RankMessage>;
}

export const toSupervisor = {
  register: request(
    'register',
    {
      checkpoint: name,
      source,
      /** Those whose ranks load the files. Default: all that see the same files. */
      hosts: z.array(z.string()).min(1).optional(),
    },
    checkpointStatus,
  ),
  /** Rejected while the checkpoint is being installed, replaced, or read by another host. */
  unregister: request('unregister', { checkpoint: name }, nothing),
  /**
   * Reserves segments on `host` for tensors of these sizes, assigned in runs to the ranks of the host. `writer` fills the
   * segments, registers what it wrote, and is notified when they are released.
   */
  reserve: request(
    'reserve',
    { checkpoint: name, host: z.string(), bytes: doubles, writer: address },
    z.object({
      reservation: z.int(),
      /** The segments exist and are overwritten; otherwise the writer creates them. */
      reused: z.boolean(),
      /** `tensors`: how many of them go into the segment. */
      segments: z.array(z.object({ ...ownSegment.shape, tensors: z.int() })),
    }),
  ),
  /** The writer could not fill its segments, and has removed those that it created. */
  cancelReservation: request('cancel-reservation', { reservation: z.int() }, nothing),
  /** Releases the host memory that is kept for later checkpoints. */
  releaseSpare: request('release-spare', {}, z.object({ bytes })),
  /** Answered when ranks have let go of all memory that was released before: with false if one of them has not. */
  released: request('released', {}, z.object({ all: z.boolean() })),
  /** `ticket`: of the caller's choice, to cancel it by. */
  update: request(
    'update',
    { checkpoint: name, options: updateRequest, ticket: z.string().optional() },
    updateReport,
  ),
  /** Aborts that update; answered at once. `running`: there is one with this ticket. */
  cancelUpdate: request(
    'cancel-update',
    { ticket: z.string(), reason: z.string() },
    z.object({ running: z.boolean() }),
  ),
  /** Starts the rank processes of a new instance. Answered when all of its ranks are ready. */
  addInstance: request('add-instance', { instance }, status),
  /** Ends the ranks of an instance. */
  removeInstance: request('remove-instance', { instance: name }, nothing),
  /** Resumes the engine of an instance that no update changes now. */
  resumeInstance: request('resume-instance', { instance: name }, nothing),
  /** Aborts all registrations and updates. */
  cancel: request('cancel', { reason: z.string() }, nothing),
  /**
   * Aborts all jobs and refuses further ones, as the cluster is about to stop. Answered when the jobs have ended, and the
   * engines that they paused are resumed.
   */
  drain: request('drain', {}, nothing),
  /** How other clusters read a checkpoint of this one: `Metas` of checkpoint/metas.ts without the secret. */
  exportMetas: request(
    'export-metas',
    { checkpoint: name },
    z.object({ digest: z.string(), manifest: binary, sources: z.array(foreignSource) }),
  ),
  status: request('status', {}, status),
  /** Answered when all instances are ready. */
  awaitReady: request('await-ready', {}, status),
  subscribe: request('subscribe', { observer: address }, nothing),
  rankReady: notice('rank-ready', readyRank.shape),
  /** The rank cannot start, and a restart would not help. */
  rankFailed: notice('rank-failed', { rank, error: z.object({ code: z.string(), message: z.string() }) }),
  progress: notice('progress', { progress }),
};

export type SupervisorMessage = MessageIn<typeof toSupervisor>;
/** One row of the table. */
export type SupervisorExchange = (typeof toSupervisor)[keyof typeof toSupervisor];
