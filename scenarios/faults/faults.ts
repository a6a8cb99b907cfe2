import { spawnSync } from 'node:child_process';
import { copyFileSync, readdirSync, renameSync, rmSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type FaultFleet, type InstanceName, instanceNames } from './fleet.ts';
import { passing, type RealMoment, realMoments } from './moments.ts';
import { freeSharedMemory, hasOwnSharedMemory } from './own-shared-memory.ts';

/** Processes that a fault of the matrix can hit. */
export type Victim = 'owner' | 'supervisor' | 'feeds' | 'receives' | 'worker' | 'http';

/** Where a fault is to happen. */
export interface Scene {
  readonly fleet: FaultFleet;
  pidOf(victim: Victim): number;
}

/** What limits of issue 12 a fault falls under. */
export type LimitKind = 'death' | 'silence' | 'engine' | 'none';

export interface RealFault {
  readonly who: string;
  readonly how: string;
  /** At which it cannot harm, or cannot be brought about: why. */
  readonly impossible: Partial<Record<RealMoment, string>>;
  readonly limit: LimitKind;
  /** The process that it hits; null for what is none. */
  readonly victim: Victim | null;
  /** The process stays stopped until {@link heal}. */
  readonly stops?: boolean;
  /** Happens by itself at the moment, in place of a process that is held. */
  readonly order?: string;
  inject?(scene: Scene): void | Promise<void>;
  /** Ends what does not pass by itself, once everyone is answered. */
  heal?(scene: Scene): void | Promise<void>;
  /** Whether requests to engines may fail. */
  readonly harmsRequests?: boolean;
}

const only = (moments: readonly RealMoment[], why: string): RealFault['impossible'] =>
  Object.fromEntries(
    realMoments.filter((moment) => !moments.includes(moment)).map((moment) => [moment, why]),
  );
const not = (moments: readonly RealMoment[], why: string): RealFault['impossible'] =>
  Object.fromEntries(moments.map((moment) => [moment, why]));

const receiving: readonly RealMoment[] = ['join: start', 'joining'];
const nothingReceived = only(receiving, 'it receives nothing from another host then');

function signal(scene: Scene, victim: Victim, name: NodeJS.Signals): void {
  try {
    process.kill(scene.pidOf(victim), name);
  } catch {
    // It has ended.
  }
}

const names = { owner: 'owner', supervisor: 'supervisor', feeds: 'rank-0', receives: 'rank-2' } as const;
const words: Readonly<Record<Victim, string>> = {
  owner: 'owner',
  supervisor: 'supervisor',
  feeds: 'rank that feeds',
  receives: 'rank that receives',
  worker: 'engine worker',
  http: "engine's HTTP server",
};

function killed(victim: Victim, impossible: RealFault['impossible'] = {}): RealFault {
  return {
    who: words[victim],
    how: 'SIGKILL',
    victim,
    impossible,
    limit: victim === 'worker' || victim === 'http' ? 'engine' : 'death',
    harmsRequests: victim === 'worker' || victim === 'http',
    inject: (scene) => signal(scene, victim, 'SIGKILL'),
  };
}

function stopped(victim: Victim, impossible: RealFault['impossible'] = {}): RealFault {
  return {
    who: words[victim],
    how: 'SIGSTOP',
    victim,
    stops: true,
    impossible,
    limit: victim === 'worker' || victim === 'http' ? 'engine' : 'silence',
    inject: (scene) => signal(scene, victim, 'SIGSTOP'),
    heal: (scene) => signal(scene, victim, 'SIGCONT'),
  };
}

/** From within, at its next turn. */
function within(
  victim: keyof typeof names,
  how: string,
  action: string,
  impossible: RealFault['impossible'] = {},
): RealFault {
  return {
    who: words[victim],
    how,
    victim,
    impossible,
    limit: 'death',
    inject: (scene) => {
      scene.fleet.orders.give(`${names[victim]}:signal:${action}`);
      signal(scene, victim, 'SIGUSR2');
    },
  };
}

const withoutDescriptors = 2_000;

/** For a time; what it meets then comes right only afterwards. */
function exhausted(victim: 'supervisor' | 'feeds'): RealFault {
  return {
    ...within(victim, 'no descriptors', `descriptors=${withoutDescriptors}`),
    limit: 'none',
    heal: async () => {
      await sleep(withoutDescriptors);
    },
  };
}

/** At a call, which is what the moment is. */
function atCall(
  who: string,
  how: string,
  order: string,
  moment: RealMoment,
  why: string,
  limit: LimitKind = 'none',
): RealFault {
  return { who, how, order, victim: null, limit, impossible: only([moment], why) };
}

/** Leaves room for what processes write about themselves, and for no weights. */
const roomBytes = 2 ** 20;
const filler = '/dev/shm/filler';

const fullSharedMemory: RealFault = {
  who: '/dev/shm',
  how: 'full',
  victim: null,
  limit: 'none',
  impossible: hasOwnSharedMemory()
    ? {}
    : not(realMoments, 'this takes root and a mount namespace, so that it harms nobody else'),
  inject: () => {
    spawnSync('fallocate', ['-l', String(Math.max(0, freeSharedMemory() - roomBytes)), filler]);
  },
  heal: () => rmSync(filler, { force: true }),
};

function brokenFile(how: string, harm: (file: string) => void): RealFault {
  const find = async ({ fleet }: Scene) => {
    const directory = await fleet.model(passing.seed);
    const name = readdirSync(directory).find((one) => one.endsWith('.safetensors'))!;
    return { file: join(directory, name), copy: join(fleet.scratch, 'kept.safetensors') };
  };
  let found: Awaited<ReturnType<typeof find>> | null = null;
  return {
    who: 'disk',
    how,
    victim: null,
    limit: 'none',
    impossible: only(['registration'], 'no file is read then'),
    inject: async (scene) => {
      found = await find(scene);
      copyFileSync(found.file, found.copy);
      harm(found.file);
    },
    heal: () => {
      if (found !== null) renameSync(found.copy, found.file);
    },
  };
}

const noEngine = not(['start', 'join: start', 'stopping'], 'engines are asked for nothing then');

/** What the matrix of real processes injects. */
export const realFaults: readonly RealFault[] = [
  killed('owner'),
  stopped('owner'),
  within('owner', 'exit', 'exit'),
  within('owner', 'exception', 'throw'),
  killed('supervisor'),
  stopped('supervisor'),
  within('supervisor', 'exit', 'exit'),
  within('supervisor', 'exception', 'throw'),
  exhausted('supervisor'),
  killed('feeds'),
  stopped('feeds'),
  within('feeds', 'exit', 'exit'),
  within('feeds', 'exception', 'throw'),
  exhausted('feeds'),
  atCall(
    words.feeds,
    'refused allocation',
    'rank-0:device-allocate:refuse',
    'opening',
    'no slots are allocated then',
  ),
  atCall(
    words.feeds,
    'refused host memory',
    'rank-0:segments-load:refuse',
    'registration',
    'no segment is created then',
  ),
  killed('receives', nothingReceived),
  stopped('receives', nothingReceived),
  within('receives', 'exit', 'exit', nothingReceived),
  within('receives', 'exception', 'throw', nothingReceived),
  atCall(
    words.receives,
    'refused host memory',
    'rank-2:segments-create:refuse',
    'joining',
    'no segment is created then',
  ),
  atCall(words.receives, 'lost connection', 'rank-2:fabric-read:throw@2', 'joining', 'it reads nothing then'),
  killed('worker', noEngine),
  stopped('worker', noEngine),
  atCall(
    words.worker,
    'exception',
    'rank-0:link-load:throw@3',
    'streaming',
    'a worker is asked for nothing then',
    'engine',
  ),
  atCall(
    words.worker,
    'corrupted answer',
    'rank-0:link-finish:corrupt',
    'finishing',
    'it says nothing of weights then',
    'engine',
  ),
  killed('http', noEngine),
  stopped('http', noEngine),
  atCall(
    words.http,
    'refuses the pause',
    'supervisor:engine-pause:throw',
    'pausing',
    'nothing of the kind is asked then',
    'engine',
  ),
  atCall(
    words.http,
    'refuses the update',
    'supervisor:engine-update:throw',
    'streaming',
    'nothing of the kind is asked then',
    'engine',
  ),
  atCall(
    words.http,
    'refuses to resume',
    'supervisor:engine-resume:throw',
    'resuming',
    'nothing of the kind is asked then',
    'engine',
  ),
  {
    who: 'network between hosts',
    how: 'silent packet loss',
    victim: null,
    limit: 'silence',
    impossible: {},
    inject: ({ fleet }) => fleet.network!.silence(0),
    heal: ({ fleet }) => fleet.network!.mend(0),
    harmsRequests: true,
  },
  brokenFile('truncated file', (file) => truncateSync(file, 2 ** 20)),
  brokenFile('file is gone', (file) => rmSync(file)),
  fullSharedMemory,
];

/** The instances that a fault may break. */
export function touchedBy({ who, victim }: RealFault, when: RealMoment): readonly InstanceName[] {
  switch (victim) {
    case 'supervisor':
      // Whoever finds an update half done cannot know which of its weights are whole.
      return instanceNames;
    case 'feeds':
      return ['a'];
    case 'receives':
      return ['c'];
    case 'worker':
    case 'http':
      return when === 'joining' ? ['c'] : ['a'];
    default:
      // A call fails for rank 0, or for the engine that is asked first.
      return who.startsWith('network') || who.startsWith('/dev/shm') ? ['c'] : instanceNames;
  }
}
