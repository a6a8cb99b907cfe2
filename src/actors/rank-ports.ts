import type { WorkerLink } from '../engines/worker-link/worker-link.ts';
import type { Collective } from '../native-bridge/collective.ts';
import type { Device } from '../native-bridge/device.ts';
import type { Mapping } from '../native-bridge/memory.ts';
import type { LoadOrder } from './messages.ts';

/** What a rank may do to the world. */
export interface RankPorts {
  readonly rank: number;
  readonly host: string;
  readonly pid: number;
  readonly device: Device;
  readonly segments: SegmentStore;
  /** `ranks` are the members, in ascending order; the port turns rank numbers into places among them. */
  openCollective(communicator: number, ranks: readonly number[]): Collective;
  bindWorkerLink(epoch: number, version: string): Promise<WorkerLink>;
}

/** The named shared memory that this rank can reach. */
export interface SegmentStore {
  /** Maps a segment of this host, once; later calls return the same mapping. */
  attach(path: string): Mapping;
  /** Makes this rank's segment, reads files into it and digests all its tensors. */
  load(order: LoadOrder): LoadJob;
  /** Unmaps segments, and removes those that weightcast made; a user's files stay. */
  forget(paths: readonly string[]): void;
  close(): void;
}

export interface LoadJob {
  readonly totalBytes: number;
  /** Bytes read or, where nothing is read, digested so far. */
  doneBytes(): number;
  /** One digest a tensor, in the manifest's order. Rejects with `CheckpointError` or `NativeError`. */
  readonly digests: Promise<BigUint64Array>;
}
