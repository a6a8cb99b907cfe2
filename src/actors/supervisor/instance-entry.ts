import type { WeightcastError } from '../../errors.ts';
import type { ActorRef } from '../kernel/index.ts';
import type { BridgeMessage } from '../protocol/bridge.ts';
import { type Instance, ranksOf } from '../protocol/instance.ts';
import type { RememberedInstance } from '../protocol/remembered-values.ts';
import type { InstanceStatus } from '../protocol/status-values.ts';

/** What is known of an instance of the cluster. */
export interface Entry {
  readonly options: Instance;
  readonly bridge: ActorRef<BridgeMessage>;
  /** Why it cannot be updated now: one of its ranks is in trouble. */
  failure: WeightcastError | null;
  held: Held;
  /** What it held before the running update, and the first of its epochs that may change that; null while none runs. */
  touched: Touched | null;
  isPaused: boolean;
  /** It was asked to pause, and has not answered: that may take effect yet; null: it was not, or has. */
  pauseDue: PauseDue | null;
  /** Its engine is not as its last update has left it. */
  hasOtherEngine: boolean;
  /** What its engine has last said that it calls its weights. */
  label: string | null;
  /** Why it was broken, paused or unknown when that was said last. */
  problem: string | null;
  /** Why its draft model has other weights than its target. */
  draftKept: string | null;
}

/** What is known of an instance that has left the cluster, or that an earlier supervisor had. */
export type Left = Pick<Entry, 'held' | 'touched' | 'isPaused' | 'pauseDue' | 'problem' | 'draftKept'>;

export interface PauseDue {
  /** For so long it is looked after. */
  readonly milliseconds: number;
}

export interface Held {
  readonly state: InstanceStatus['state'];
  readonly version: InstanceStatus['version'];
}

/** An update that changes an instance. */
export interface Touched {
  readonly before: Held;
  readonly epoch: number;
}

export const unknown: Held = { state: 'unknown', version: null };
export const updating: Held = { state: 'updating', version: null };
export const verifying: Held = { state: 'verifying', version: null };
export const broken: Held = { state: 'broken', version: null };

/** Of one that nobody has heard of. */
export const fresh: Left = {
  held: unknown,
  touched: null,
  isPaused: false,
  pauseDue: null,
  problem: null,
  draftKept: null,
};

/** What another supervisor has to know of it. */
export function remembered(
  name: string,
  { held, isPaused, pauseDue, problem, draftKept, touched }: Left,
  isRemoved: boolean,
): RememberedInstance {
  return {
    name,
    held: { state: held.state, version: held.version },
    isPaused,
    pauseDue: pauseDue && { ...pauseDue },
    problem,
    draftKept,
    touched: touched && { epoch: touched.epoch, before: { ...touched.before } },
    isRemoved,
  };
}

export function statusOf({ options, held, isPaused, problem, draftKept }: Entry): InstanceStatus {
  return {
    name: options.name,
    endpoint: options.endpoint,
    ranks: ranksOf(options),
    state: held.state,
    version: held.version,
    isPaused,
    problem: held.state === 'broken' || held.state === 'unknown' || isPaused ? problem : null,
    draftKept: held.state === 'serving' ? draftKept : null,
  };
}
