/**
 * How long anyone waits, in milliseconds. A step that moves weights is bounded by the update's own timeout; these
 * bound the steps that only talk, and the silence within a step that moves.
 */
export const deadlines = {
  /** A control message to a process of the cluster; a process may be busy encoding a large manifest. */
  control: 15_000,
  /** A process that starts, until its hub has welcomed it: one of many on a busy machine. */
  start: 60_000,
  /** Opening slots and sockets: device allocations zero their pages on the host device. */
  open: 60_000,
  /** Members of a communicator waiting for each other; the first one of a process loads NCCL. Less than `abort`. */
  communicator: 20_000,
  /** A pure computation over the largest manifests, on a busy machine. */
  plan: 60_000,
  /** Reading a checkpoint from a slow network file system. */
  load: 3_600_000,
  /** A rank giving everything back after a failure; native copies in flight end first. */
  abort: 30_000,
  /** An engine that is loading its model answers its health route late. */
  engineHealthy: 120_000,
  /** An engine that takes up generating again. */
  engineResume: 30_000,
  /** Reaching a rank of another host and proving to each other who one is. */
  connect: 10_000,
  /** One piece from another host, over a slow network that many share. */
  read: 60_000,
  /** One answer of an engine worker: a bucket's copy, a post-hook that quantises. */
  workerLink: 120_000,
  /** One broadcast: a bucket at the slowest link, and a peer whose slot is not free until its worker has answered. */
  broadcast: 150_000,
} as const;
