import type { LoadJob } from '../../checkpoint/segment-store.ts';
import type { WeightcastError } from '../../errors.ts';
import type { ActorRef, SpawnOptions } from '../kernel/index.ts';
import { type RankMessage, toRank } from '../protocol/rank.ts';
import type { SupervisorMessage } from '../protocol/supervisor.ts';
import { anyOf } from '../protocol/table.ts';
import type { Arrived } from '../protocol/update-values.ts';
import type { SlotReport } from './bucket.ts';

/** Everything that reaches a rank's mailbox: its protocol, and what it and its slots send to it. */
export type RankInbox =
  | RankMessage
  | SlotReport
  | { readonly type: 'load-ended'; readonly job: LoadJob; readonly result: BigUint64Array | WeightcastError }
  /** The engine worker refused the link buffer. */
  | { readonly type: 'connect-failed'; readonly epoch: number; readonly error: WeightcastError }
  | {
      readonly type: 'exchange-ended';
      readonly epoch: number;
      readonly result: Arrived | null | WeightcastError;
    }
  | { readonly type: 'report-progress' }
  /** The supervisor's process has died. */
  | { readonly type: 'supervisor-died' }
  /** Another one has taken its place. */
  | { readonly type: 'supervisor-found'; readonly supervisor: ActorRef<SupervisorMessage> };

export const rankSpawnOptions: SpawnOptions<RankInbox> = {
  accepts: anyOf(toRank),
  isSignal: ({ type }) => type === 'abort' || type === 'supervisor-died' || type === 'supervisor-found',
};
