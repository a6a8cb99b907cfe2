import { rmSync, truncateSync } from 'node:fs';
import {
  atCall,
  brokenFile,
  exhausted,
  fullSharedMemory,
  killed,
  not,
  only,
  type RealFault,
  stopped,
  within,
  words,
} from './faults.ts';
import { type InstanceName, instanceNames } from './fleet.ts';
import type { RealMoment } from './moments.ts';

const receiving: readonly RealMoment[] = ['join: start', 'joining'];
const nothingReceived = only(receiving, 'it receives nothing from another host then');

/** Within the work of native threads, not at the call that begins it. */
function amidNative(
  victim: 'feeds' | 'receives',
  point: string,
  what: string,
  moment: RealMoment,
  why: string,
): RealFault[] {
  const at = (action: string) => `${point}:${action}@2`;
  return [
    atCall(words[victim], `no memory amid ${what}`, at('refuse'), moment, why),
    { ...atCall(words[victim], `SIGKILL amid ${what}`, at('crash'), moment, why, 'death'), victim },
  ];
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
  killed('agent'),
  stopped('agent'),
  within('agent', 'exit', 'exit'),
  within('agent', 'exception', 'throw'),
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
  ...amidNative('feeds', 'rank-0:native-upload', 'an upload', 'streaming', 'it uploads nothing then'),
  ...amidNative('feeds', 'rank-0:native-broadcast', 'a broadcast', 'streaming', 'it broadcasts nothing then'),
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
  ...amidNative('receives', 'rank-2:native-read', 'a read', 'joining', 'it reads nothing then'),
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
    case 'agent':
      // Its ranks live on without it.
      return [];
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
