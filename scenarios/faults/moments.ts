import type { FaultFleet } from './fleet.ts';

/** When a fault happens to real processes. Each but `idle` is within a request. */
export const realMoments = [
  'start',
  'idle',
  'registration',
  'preparing',
  'opening',
  'pausing',
  'streaming',
  'finishing',
  'resuming',
  'join: start',
  'joining',
  'stopping',
] as const;
export type RealMoment = (typeof realMoments)[number];

/** Checkpoints that are registered all the while, by their seeds; updates take turns. */
export const checkpoints = { one: 2, two: 3 } as const;
export type CheckpointName = keyof typeof checkpoints;
/** Registered in the middle of which faults happen. */
export const passing = { name: 'passing', seed: 4 } as const;
export const bucketBytes = 2 ** 20;
export const updateMilliseconds = 15_000;
/** Deadline of one answer of an engine worker, of its connecting, and of an engine that is down. */
export const stepMilliseconds = 3_000;

/** How a moment is reached. */
export interface Reached {
  /** The process that is to stop itself then, so that the moment lasts until the fault has happened; null: none is needed. */
  readonly hold: string | null;
  /** What comes before the request. */
  prepare?(fleet: FaultFleet, checkpoint: CheckpointName): Promise<unknown>;
  /** The request. Null: none. */
  begin(fleet: FaultFleet, checkpoint: CheckpointName): Promise<unknown> | null;
}

const updateOptions = {
  bucketBytes,
  timeoutMilliseconds: updateMilliseconds,
  stepTimeoutMilliseconds: stepMilliseconds,
  connectTimeoutMilliseconds: stepMilliseconds,
  readyTimeoutMilliseconds: stepMilliseconds,
};

export function updateAll({ owner }: FaultFleet, checkpoint: CheckpointName, atomic = false) {
  return owner.call('update', checkpoint, { ...updateOptions, atomic });
}

function heldUpdate(hold: string): Reached {
  return { hold, begin: updateAll };
}

async function takeOut({ owner }: FaultFleet): Promise<void> {
  await owner.call('removeInstance', 'c');
}

export const reached: Readonly<Record<RealMoment, Reached>> = {
  start: {
    hold: 'rank-0:start:stop',
    prepare: async (fleet) => {
      await fleet.owner.call('stop');
      await fleet.owner.end();
      fleet.newOwner();
    },
    begin: (fleet) => fleet.owner.call('start', fleet.clusterOptions()),
  },
  idle: { hold: null, begin: () => null },
  registration: {
    hold: 'rank-0:load:stop',
    begin: async (fleet) => fleet.owner.call('register', passing.name, await fleet.model(passing.seed)),
  },
  preparing: heldUpdate('rank-0:prepare:stop'),
  opening: heldUpdate('rank-0:open:stop'),
  pausing: heldUpdate('supervisor:engine-pause:stop'),
  streaming: heldUpdate('rank-0:link-load:stop@3'),
  finishing: heldUpdate('rank-0:link-finish:stop'),
  resuming: heldUpdate('supervisor:engine-resume:stop'),
  'join: start': {
    hold: 'rank-2:start:stop',
    prepare: takeOut,
    begin: (fleet) => fleet.owner.call('addInstance', fleet.instance('c')),
  },
  joining: {
    hold: 'rank-2:fabric-read:stop@2',
    prepare: async (fleet, checkpoint) => {
      await takeOut(fleet);
      // What the other host alone had loaded went with it.
      await fleet.owner.call('register', checkpoint, await fleet.model(checkpoints[checkpoint]));
      await fleet.owner.call('addInstance', fleet.instance('c'));
    },
    begin: ({ owner }, checkpoint) =>
      owner.call('update', checkpoint, { ...updateOptions, instances: ['c'] }),
  },
  stopping: { hold: null, begin: ({ owner }) => owner.call('stop') },
};
