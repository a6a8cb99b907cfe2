import { spawnSync } from 'node:child_process';
import { copyFileSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FaultFleet } from './fleet.ts';
import { passing, type RealMoment, realMoments } from './moments.ts';
import { freeSharedMemory, hasOwnSharedMemory } from './own-shared-memory.ts';

/** Processes that a fault of the matrix can hit. */
export type Victim = 'owner' | 'supervisor' | 'agent' | 'feeds' | 'receives' | 'worker' | 'http';

/** Where a fault is to happen. */
export interface Scene {
  readonly fleet: FaultFleet;
  pidOf(victim: Victim): number;
}

/**
 * What limits of issue 12 a fault falls under. `unseen`: what goes on without it shows nothing of it. `busy`: nor is there
 * anything to detect, and whoever asked hears of the answer when it goes on.
 */
export type LimitKind = 'death' | 'silence' | 'unseen' | 'busy' | 'engine' | 'none';

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

export const only = (moments: readonly RealMoment[], why: string): RealFault['impossible'] =>
  Object.fromEntries(
    realMoments.filter((moment) => !moments.includes(moment)).map((moment) => [moment, why]),
  );
export const not = (moments: readonly RealMoment[], why: string): RealFault['impossible'] =>
  Object.fromEntries(moments.map((moment) => [moment, why]));

function signal(scene: Scene, victim: Victim, name: NodeJS.Signals): void {
  try {
    process.kill(scene.pidOf(victim), name);
  } catch {
    // It has ended.
  }
}

const names = {
  owner: 'owner',
  supervisor: 'supervisor',
  agent: 'agent',
  feeds: 'rank-0',
  receives: 'rank-2',
} as const;
export const words: Readonly<Record<Victim, string>> = {
  owner: 'owner',
  supervisor: 'supervisor',
  agent: 'agent of another host',
  feeds: 'rank that feeds',
  receives: 'rank that receives',
  worker: 'engine worker',
  http: "engine's HTTP server",
};

function limitOf(victim: Victim, usual: 'death' | 'silence'): LimitKind {
  if (victim === 'agent') return 'unseen';
  if (victim === 'owner' && usual === 'silence') return 'busy';
  return victim === 'worker' || victim === 'http' ? 'engine' : usual;
}

export function killed(victim: Victim, impossible: RealFault['impossible'] = {}): RealFault {
  return {
    who: words[victim],
    how: 'SIGKILL',
    victim,
    impossible,
    limit: limitOf(victim, 'death'),
    harmsRequests: victim === 'worker' || victim === 'http',
    inject: (scene) => signal(scene, victim, 'SIGKILL'),
  };
}

export function stopped(victim: Victim, impossible: RealFault['impossible'] = {}): RealFault {
  return {
    who: words[victim],
    how: 'SIGSTOP',
    victim,
    stops: true,
    impossible,
    limit: limitOf(victim, 'silence'),
    inject: (scene) => signal(scene, victim, 'SIGSTOP'),
    heal: (scene) => signal(scene, victim, 'SIGCONT'),
  };
}

/** From within, at its next turn. */
export function within(
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
    limit: limitOf(victim, 'death'),
    inject: (scene) => {
      scene.fleet.orders.give(`${names[victim]}:signal:${action}`);
      signal(scene, victim, 'SIGUSR2');
    },
  };
}

const withoutDescriptors = 2_000;

/** For a time; what it meets then comes right only afterwards. */
export function exhausted(victim: 'supervisor' | 'feeds'): RealFault {
  return {
    ...within(victim, 'no descriptors', `descriptors=${withoutDescriptors}`),
    limit: 'none',
    heal: async () => {
      await sleep(withoutDescriptors);
    },
  };
}

/** At a call, which is what the moment is. */
export function atCall(
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

export const fullSharedMemory: RealFault = {
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

export function brokenFile(how: string, harm: (file: string) => void): RealFault {
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
