/**
 * Deadlines in milliseconds. Steps that move weights end at the update's own deadline; these are for steps that only
 * exchange messages, and for the time without progress in a step that moves weights.
 */
export const deadlines = {
  /** A control message to a process of the cluster, which may be busy encoding a large manifest. */
  control: 15_000,
  /**
   * A rank process becoming the owner of its device, and any process connecting to the hub, while many start on a busy
   * machine. Users can set it.
   */
  start: 60_000,
  /** All rank processes ending, those that hang killed. Longer than the grace time of one of them. */
  stopRanks: 28_000,
  /**
   * Allocating slots and opening sockets; the host device zeroes the pages it allocates. Longer where segments are
   * reserved, pinned and registered: see {@link growing}.
   */
  open: 60_000,
  /** Ranks of a communicator waiting for each other; the first one of a process loads NCCL. Less than `abort`. */
  communicator: 20_000,
  /** A pure computation over the largest manifests, on a busy machine. */
  plan: 60_000,
  /** Reading a checkpoint from a slow network file system. */
  load: 3_600_000,
  /** A rank releasing everything after a failure; native copies in flight end first. */
  abort: 30_000,
  /** An engine that loads its model answers its health route late. Longer where an update has more than ten minutes. */
  engineHealthy: 120_000,
  /** An engine resuming. */
  engineResume: 30_000,
  /** The same where it is tried again for as long as the cluster runs: an update, and the next one, wait for that long. */
  resumeTry: 10_000,
  /**
   * The same when the cluster ends, which it does in any case; and of a pause that may still take effect then. A part of the
   * time that the end may take, which users can set.
   */
  lastResumeTry: 2_000,
  /** An engine saying whether it is paused, when it has not answered that it was resumed. Users can set it. */
  engineState: 2_000,
  /**
   * A rank that is lost to the cluster ending by itself: it may still be well, and one that hangs is killed after that. A part
   * of the time that the cluster's end may take, which users can set.
   */
  lostRank: 1_000,
  /** Connecting to a rank of another host, with mutual authentication. */
  connect: 10_000,
  /** Reading one piece from another host, over a slow network that many share. */
  read: 60_000,
  /**
   * One answer of an engine worker, which copies a bucket or runs a post-hook that quantises: this much, and a second for
   * each GB of the checkpoint. Users can set it.
   */
  workerLink: 120_000,
  /**
   * From the first worker of an engine that has connected to its rank to the last one: all are called at the same time. Users
   * can set it.
   */
  connectWorkers: 60_000,
  /** A broadcast goes to peers whose slots are free only when their workers have answered: this much longer than that. */
  broadcastBeyondWorkerLink: 30_000,
} as const;

/** Bytes per millisecond that even a slow machine manages; many share the network. */
const slowest = {
  /** Reserving, page-locking and registering host memory. */
  memory: 5e5,
  network: 1e4,
} as const;

/** A deadline for a step whose work grows with the bytes. */
export function growing(milliseconds: number, bytes: number, what: keyof typeof slowest): number {
  return milliseconds + Math.ceil(bytes / slowest[what]);
}
