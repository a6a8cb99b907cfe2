import type { LoadJob } from '../../checkpoint/segment-store.ts';
import type { WeightcastError } from '../../errors.ts';
import type { Interval } from '../../native-bridge/addon.ts';
import type { SpawnOptions } from '../kernel/index.ts';
import { type RankMessage, toRank } from '../protocol/rank.ts';
import { anyOf } from '../protocol/table.ts';
import type { Installed } from '../protocol/update-values.ts';

/** Everything that reaches a rank's mailbox: its protocol, and what it and its buckets send to it. */
export type RankInbox =
  | RankMessage
  | { readonly type: 'load-ended'; readonly job: LoadJob; readonly result: BigUint64Array | WeightcastError }
  | { readonly type: 'staged'; readonly epoch: number; readonly bucket: number; readonly h2d: Interval }
  | {
      readonly type: 'uploaded-in-place';
      readonly epoch: number;
      readonly bucket: number;
      readonly h2d: Interval;
    }
  | { readonly type: 'broadcast-issued'; readonly epoch: number; readonly bucket: number }
  | {
      readonly type: 'broadcast-done';
      readonly epoch: number;
      readonly bucket: number;
      readonly broadcast: Interval;
    }
  | { readonly type: 'reloaded'; readonly epoch: number; readonly bucket: number; readonly reload: Interval }
  | { readonly type: 'report-progress' }
  | { readonly type: 'bucket-failed'; readonly epoch: number; readonly error: WeightcastError }
  | {
      readonly type: 'stream-ended';
      readonly epoch: number;
      readonly result: Installed | null | WeightcastError;
    };

export const rankSpawnOptions: SpawnOptions<RankInbox> = {
  accepts: anyOf(toRank),
  isSignal: ({ type }) => type === 'abort',
};
