import type { Manifest } from '../../checkpoint/manifest.ts';
import type { Collective } from '../../native-bridge/collective.ts';
import type { Plan } from '../../plan/plan.ts';
import type { Clock } from '../../ports.ts';
import type { Receiver } from '../join/receiver.ts';
import type { Announcement } from './announcement.ts';
import type { RankPorts, WorkerLinkOrder } from './ports.ts';

/** What one epoch of a rank works with. */
export interface TransferOptions {
  readonly epoch: number;
  readonly version: string;
  readonly worker: Omit<WorkerLinkOrder, 'epoch' | 'version' | 'exchanges' | 'timeoutMilliseconds'>;
  /** How often the engine worker takes all buckets: twice if a draft model takes them too. */
  readonly exchanges: number;
  readonly stepTimeoutMilliseconds: number;
  readonly plan: Plan;
  readonly manifest: Manifest;
  /** Otherwise the manifest's digests are those of an earlier checkpoint. */
  readonly hasDigests: boolean;
  /** `arrivalDigest` of the checkpoint. */
  readonly expected: string;
  /** Null: all tensors of the plan are announced to the engine worker. */
  readonly announcement: Announcement | null;
  readonly ports: RankPorts;
  readonly clock: Clock;
  /** Null for a rank that is alone. */
  readonly collective: Collective | null;
  /** Reads from other hosts; null if all bytes are in this host's memory. */
  readonly receiver: Receiver | null;
}
