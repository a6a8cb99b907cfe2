import { z } from 'zod';
import { instanceOptions } from './instance-options.ts';
import { type MessageIn, notice, request } from './table.ts';
import {
  address,
  binary,
  bytes,
  checkpointStatus,
  doubles,
  foreignSource,
  name,
  nothing,
  ownSegment,
  progress,
  rank,
  source,
  status,
  updateOptions,
  updateReport,
} from './values.ts';

export const toSupervisor = {
  register: request('register', { checkpoint: name, source }, checkpointStatus),
  /** Rejected while it is being installed, registered anew, or read by another host. */
  unregister: request('unregister', { checkpoint: name }, nothing),
  /**
   * Segments on `host` for tensors of these sizes, dealt out in runs to its ranks. `writer` fills them and then registers
   * what it wrote, and is told when they are forgotten.
   */
  reserve: request(
    'reserve',
    { checkpoint: name, host: z.string(), bytes: doubles, writer: address },
    z.object({
      reservation: z.int(),
      /** Those that are there already are written over; the writer makes the others. */
      isThere: z.boolean(),
      segments: z.array(z.object({ ...ownSegment.shape, tensors: z.int() })),
    }),
  ),
  /** The writer could not fill what it reserved, and has removed what it made. */
  cancelReservation: request('cancel-reservation', { reservation: z.int() }, nothing),
  /** Gives back the host memory that is kept for checkpoints to come. */
  releaseSpare: request('release-spare', {}, z.object({ bytes })),
  update: request('update', { checkpoint: name, options: updateOptions }, updateReport),
  /** A new instance joins the cluster: rank processes are started for it. Answered when they are there. */
  addInstance: request('add-instance', { instance: instanceOptions }, status),
  /** Ends the ranks of an instance, which is not updated any more. */
  removeInstance: request('remove-instance', { instance: name }, nothing),
  cancel: request('cancel', { reason: z.string() }, nothing),
  /** How other clusters read a checkpoint here: `Metas` of checkpoint/metas.ts but for the secret. */
  exportMetas: request(
    'export-metas',
    { checkpoint: name },
    z.object({ digest: z.string(), manifest: binary, sources: z.array(foreignSource) }),
  ),
  status: request('status', {}, status),
  awaitReady: request('await-ready', {}, status),
  subscribe: request('subscribe', { observer: address }, nothing),
  rankReady: notice('rank-ready', {
    rank,
    ref: address,
    deviceUuid: z.string(),
    host: z.string(),
    /** Where its host's segments lie. */
    directory: z.string(),
    /** Changes when the directory was removed and created again. */
    directoryId: z.string(),
    /** The RDMA ports that it uses; none where it has none. */
    nics: z.array(z.string()),
    /** Whether its collective also joins ranks of other hosts (`cluster`), or only those of its own (`host`). */
    collectiveScope: z.enum(['host', 'cluster']),
    pid: z.int(),
  }),
  /** The rank cannot start, and starting it again would not help. */
  rankFailed: notice('rank-failed', { rank, error: z.object({ code: z.string(), message: z.string() }) }),
  progress: notice('progress', { progress }),
};

export type SupervisorMessage = MessageIn<typeof toSupervisor>;
/** One row of the table. */
export type SupervisorExchange = (typeof toSupervisor)[keyof typeof toSupervisor];
