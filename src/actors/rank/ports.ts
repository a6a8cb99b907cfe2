import type { HostDocuments } from '../../checkpoint/host-documents.ts';
import type { SegmentStore } from '../../checkpoint/segment-store.ts';
import type { WorkerLink } from '../../engines/worker-link/worker-link.ts';
import type { Collective } from '../../native-bridge/collective.ts';
import type { Device } from '../../native-bridge/device.ts';
import type { Fabric } from '../../native-bridge/fabric.ts';
import type {
  Communicator,
  CommunicatorRequest,
  CreatedCommunicator,
  WorkerAsked,
} from '../protocol/update-values.ts';

/** The effects of a rank: its device, segments, collectives, fabric and worker links. */
export interface RankPorts {
  readonly rank: number;
  readonly host: string;
  /** Directory of the host's segments. */
  readonly directory: string;
  /** Changes when the directory was removed and created again. */
  readonly directoryId: string;
  readonly pid: number;
  readonly device: Device;
  readonly segments: SegmentStore;
  readonly documents: HostDocuments;
  /** The RDMA ports that this rank uses; none where it has none. */
  readonly nics: readonly string[];
  /** Whether its collective also joins ranks of other hosts (`cluster`), or only those of its own (`host`). */
  readonly collectiveScope: 'host' | 'cluster';
  /**
   * One-sided reads among ranks of different hosts, opened on first use. Null: this cluster's fabric; otherwise that of
   * the cluster with this secret. Throws `NativeError`.
   */
  fabric(secret: string | null): Fabric;
  /** Creates a communicator for its members to open. Throws `NativeError` if no collective can connect them. */
  createCommunicator(order: CommunicatorRequest): CreatedCommunicator;
  /** `ranks`: all members in their order, this rank among them. Resolves when all of them have joined. */
  openCollective(communicator: Communicator, ranks: readonly number[]): Promise<Collective>;
  /** Ends its process, after the actor. */
  end(): void;
  /** Closes the fabrics, the segments and the device. */
  close(): void;
  bindWorkerLink(order: WorkerLinkOrder): Promise<WorkerLink>;
}

export interface WorkerLinkOrder extends Omit<WorkerAsked, 'parts'> {
  /** Whether it is to record which part of each tensor its model reads. */
  readonly parts: boolean;
  /**
   * Its token of what it has recorded, by which the parts that follow are cut, and tensors left out; null: all follow, whole.
   */
  readonly kept: string | null;
  readonly epoch: number;
  readonly version: string;
  /** How often the worker takes all weights. */
  readonly exchanges: number;
  /** How long one answer may take. */
  readonly timeoutMilliseconds: number;
}
