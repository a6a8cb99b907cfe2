import { toAgent } from '../actors/protocol/agent.ts';
import { toHosts } from '../actors/protocol/hosts.ts';
import { toObserver } from '../actors/protocol/observer.ts';
import { toRank } from '../actors/protocol/rank.ts';
import { toSupervisor } from '../actors/protocol/supervisor.ts';
import { toSwarm } from '../actors/protocol/swarm.ts';
import type { Table } from '../actors/protocol/table.ts';
import { toWriter } from '../actors/protocol/writer.ts';
import { nativePoints } from '../native-bridge/native-faults.ts';

/**
 * The fault points of each kind of process, and what can happen at them. There are no others. Those of native code are
 * reached amid its work; `@` counts the calls that begin it.
 */

export const processKinds = ['owner', 'supervisor', 'agent', 'rank'] as const;
export type ProcessKind = (typeof processKinds)[number];

/**
 * `crash`: the process kills itself (SIGKILL). `exit`: it ends with exit code 1. `stop`: it stops itself until SIGCONT.
 * `throw`: the call fails; at a message, the process gets an uncaught exception. `delay`: so many milliseconds, in order.
 * `drop`, `duplicate`: the message. `corrupt`: a message loses a field, an answer its content, data a bit. `refuse`: there is
 * no memory. `descriptors`: the process opens files until it can open no more, and closes them after
 * so many milliseconds.
 */
export type Action =
  | 'crash'
  | 'exit'
  | 'stop'
  | 'throw'
  | 'delay'
  | 'drop'
  | 'duplicate'
  | 'corrupt'
  | 'refuse'
  | 'descriptors';

const ofProcess: readonly Action[] = ['crash', 'exit', 'stop', 'throw', 'descriptors'];
const ofCall: readonly Action[] = [...ofProcess, 'delay'];
const ofMessage: readonly Action[] = [...ofCall, 'drop', 'duplicate', 'corrupt'];
const ofAllocation: readonly Action[] = [...ofProcess, 'refuse'];
const ofNative: readonly Action[] = ['crash', 'stop', 'delay', 'refuse'];

/** Points beside the messages, which have the names of their types. */
const calls: Readonly<Record<ProcessKind, Readonly<Record<string, readonly Action[]>>>> = {
  owner: {},
  supervisor: {
    start: ofProcess,
    'engine-state': ofCall,
    'engine-pause': ofCall,
    'engine-resume': ofCall,
    'engine-update': ofCall,
    'launch-rank': ofProcess,
    'memory-write': ofAllocation,
  },
  agent: { start: ofProcess },
  rank: {
    start: ofProcess,
    'device-allocate': ofAllocation,
    'device-upload': ofCall,
    'collective-open': ofCall,
    'collective-broadcast': ofCall,
    'fabric-expose': ofCall,
    'fabric-connect': ofCall,
    'fabric-read': ofCall,
    'segments-create': [...ofCall, 'refuse'],
    'segments-load': ofAllocation,
    'documents-write': ofAllocation,
    'link-bind': ofCall,
    'link-open': ofCall,
    'link-load': ofCall,
    'link-release': ofCall,
    'link-finish': [...ofCall, 'corrupt'],
    'segments-ready': ofCall,
    ...Object.fromEntries(nativePoints.map((point) => [point, ofNative])),
  },
};

const messages: Readonly<Record<ProcessKind, readonly Table[]>> = {
  owner: [toObserver, toWriter],
  supervisor: [toSupervisor, toSwarm, toHosts],
  agent: [toAgent],
  rank: [toRank],
};
/** The receivers that a process asks. */
const asked: Readonly<Record<ProcessKind, readonly Table[]>> = {
  owner: [toSupervisor],
  supervisor: [toRank, toObserver, toWriter],
  agent: [toHosts],
  rank: [toSwarm],
};

/** The point at which the answer to such a message arrives. */
export function answerPoint(type: string): string {
  return `answer-${type}`;
}

/** What can happen at each point of a process. `signal` is reached whenever the process gets SIGUSR2. */
export function pointsOf(kind: ProcessKind): ReadonlyMap<string, readonly Action[]> {
  return new Map([
    ['signal', ofProcess],
    ...Object.entries(calls[kind]),
    ...typesIn(messages[kind]).map((type) => [type, ofMessage] as const),
    ...typesIn(asked[kind]).map((type) => [answerPoint(type), ofMessage] as const),
  ]);
}

function typesIn(tables: readonly Table[]): string[] {
  return tables.flatMap((table) =>
    Object.values(table).map((entry) => (entry as unknown as { readonly type: string }).type),
  );
}
