import type { UpdateRates } from '../../plan/parts-choice.ts';
import type { Planned } from '../protocol/plan-values.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { KeptAnnouncement } from '../protocol/update-values.ts';
import type { GroupCommunicator } from './communicators.ts';

/** A rank, with what it answered to `prepare`. */
export interface Prepared {
  readonly ready: ReadyRank;
  readonly freeBytes: number;
  readonly bucketBytes: number;
  readonly layouts: readonly string[];
  readonly planDigests: readonly string[];
  readonly kept: readonly KeptAnnouncement[];
  readonly rates: UpdateRates;
}

/** Ranks with one plan: they broadcast to each other, or it is one alone. */
export interface PlannedGroup {
  readonly ranks: readonly ReadyRank[];
  readonly prepared: readonly Prepared[];
  /** Null for a rank that is sent parts: it broadcasts to nobody. */
  readonly communicator: GroupCommunicator | null;
  readonly planned: Planned;
}
