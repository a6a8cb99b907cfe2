/** How long each part of a cluster's end may take, in milliseconds. */
export interface StopTimes {
  /** Jobs that were aborted ending, and engines that they paused being resumed. */
  readonly drain: number;
  /** A rank process releasing what it holds. */
  readonly rank: number;
  /** After that, the agent of another host kills it. */
  readonly agent: number;
  /** And after that, the supervisor kills it. */
  readonly grace: number;
  /** The supervisor's actor ending all of its ranks. */
  readonly ranks: number;
  /** All actors of the supervisor's process. */
  readonly supervisor: number;
  /** Within `drain`, one try to resume an engine, and the wait for a pause that may still take effect, here and by the owner. */
  readonly lastResume: number;
  /** The owner resuming an engine that a dead supervisor has left, with all that is tried. */
  readonly leftEngine: number;
  /** A rank that is lost to the cluster while that runs ending by itself. */
  readonly lostRank: number;
}

/** Divides the time that `Cluster.stop` may take. */
export function stopTimes(totalMilliseconds: number): StopTimes {
  return {
    drain: totalMilliseconds / 4,
    rank: totalMilliseconds / 3,
    agent: (totalMilliseconds * 23) / 60,
    grace: (totalMilliseconds * 25) / 60,
    ranks: (totalMilliseconds * 28) / 60,
    supervisor: totalMilliseconds / 2,
    lastResume: totalMilliseconds / 30,
    leftEngine: totalMilliseconds / 6,
    lostRank: totalMilliseconds / 60,
  };
}
