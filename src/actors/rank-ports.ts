import type { SegmentStore } from '../checkpoint/segment-store.ts';
import type { WorkerLink } from '../engines/worker-link/worker-link.ts';
import type { Collective } from '../native-bridge/collective.ts';
import type { Device } from '../native-bridge/device.ts';

/** What a rank may do to the world. */
export interface RankPorts {
  readonly rank: number;
  readonly host: string;
  readonly pid: number;
  readonly device: Device;
  readonly segments: SegmentStore;
  /** `ranks` are the members in their order; this rank is one of them. */
  openCollective(communicator: number, ranks: readonly number[]): Collective;
  bindWorkerLink(epoch: number, version: string): Promise<WorkerLink>;
}
