import type { SegmentStore } from '../../checkpoint/segment-store.ts';
import type { WorkerLink } from '../../engines/worker-link/worker-link.ts';
import type { Collective } from '../../native-bridge/collective.ts';
import type { Device } from '../../native-bridge/device.ts';
import type { Fabric } from '../../native-bridge/fabric.ts';
import type { Communicator, CommunicatorRequest, CreatedCommunicator } from '../protocol/update-values.ts';

/** What a rank may do to the world. */
export interface RankPorts {
  readonly rank: number;
  readonly host: string;
  /** Where the host's segments lie. */
  readonly directory: string;
  /** Changes when the directory was removed and created again. */
  readonly directoryId: string;
  readonly pid: number;
  readonly device: Device;
  readonly segments: SegmentStore;
  /** The RDMA ports that this rank uses; none where it has none. */
  readonly nics: readonly string[];
  /** Whether its collective also joins ranks of other hosts (`cluster`), or only those of its own (`host`). */
  readonly collectiveScope: 'host' | 'cluster';
  /**
   * One-sided reads from and by ranks of other hosts; opened when it is first needed. With a secret, to reach the cluster
   * that has it. Throws `NativeError`.
   */
  fabric(secret: string | null): Fabric;
  /** A new communicator, which its members then open. Throws `NativeError` if nothing here can connect them. */
  createCommunicator(order: CommunicatorRequest): CreatedCommunicator;
  /** `ranks` are the members in their order; this rank is one of them. Resolves when all of them have come. */
  openCollective(communicator: Communicator, ranks: readonly number[]): Promise<Collective>;
  /** Gives back all that these ports hold. */
  close(): void;
  /** `report`: whether the engine worker is to say at the end what it holds. */
  bindWorkerLink(epoch: number, version: string, report: boolean): Promise<WorkerLink>;
}
