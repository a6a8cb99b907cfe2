import { join } from 'node:path';
import type {
  Communicator,
  CommunicatorRequest,
  CreatedCommunicator,
} from '../actors/protocol/update-values.ts';
import { describe, NativeError, ProtocolError, UsageError } from '../errors.ts';
import { type Collective, ShmCollective } from '../native-bridge/collective.ts';
import { CudaDevice } from '../native-bridge/cuda-device.ts';
import type { Device } from '../native-bridge/device.ts';
import { NcclCollective, probeNccl } from '../native-bridge/nccl-collective.ts';
import type { Logger } from '../ports.ts';

/** First byte of a communicator's id; it determines the meaning of the rest. */
const kinds = { shm: 0, nccl: 1, ncclOnSharedDevices: 2 } as const;

/**
 * Processes on one GPU are time-sliced, some milliseconds each, and an NCCL kernel that waits for another rank's kernel
 * wastes its whole slice. Ranks that share a GPU therefore need few broadcasts, and NCCL buffers that hold a whole one:
 * with these values four ranks receive 8.9 GB in 0.3 s, without them in 0.9 s (bench/results/collective.md).
 */
const sharedDevices = { bucketBytes: 512 * 2 ** 20, ncclBufferBytes: 16 * 2 ** 20 } as const;

export type CollectiveKind = 'nccl' | 'copies';

/** Creates and opens the communicators of a rank process. */
export class Communicators {
  readonly #device: Device;
  readonly #directory: string;
  readonly #rank: number;
  readonly #preference: CollectiveKind | null;
  readonly #timeoutMilliseconds: number;
  readonly #log: Logger;

  constructor(options: {
    readonly device: Device;
    /** Shared by the processes of this host; removed when the last of them exits. */
    readonly directory: string;
    readonly rank: number;
    /** The collective for CUDA devices where both would work; null for the faster one. */
    readonly preference: CollectiveKind | null;
    /** How long members wait for each other to join. */
    readonly timeoutMilliseconds: number;
    readonly log: Logger;
  }) {
    this.#device = options.device;
    this.#directory = options.directory;
    this.#rank = options.rank;
    this.#preference = options.preference;
    this.#timeoutMilliseconds = options.timeoutMilliseconds;
    this.#log = options.log;
  }

  /** Whether a collective can join ranks of several hosts (`cluster`), or only those of one (`host`). */
  get scope(): 'host' | 'cluster' {
    return this.#device instanceof CudaDevice && ncclObstacle(false) === null ? 'cluster' : 'host';
  }

  /**
   * Creates a communicator. CUDA devices use NCCL; without a usable NCCL, ranks of one host copy from each other. Ranks
   * that share a device copy by default if they are on one host, because NCCL's kernels would be time-sliced on it, and
   * its buffers take 2 GiB per rank. Throws `NativeError` where NCCL is needed and missing.
   */
  create(order: CommunicatorRequest): CreatedCommunicator {
    if (this.#device instanceof CudaDevice && this.#usesNccl(order)) {
      const kind = order.sharesDevices ? kinds.ncclOnSharedDevices : kinds.nccl;
      const leastBucketBytes = order.sharesDevices ? sharedDevices.bucketBytes : 0;
      return { id: Buffer.from([kind, ...NcclCollective.uniqueId()]), leastBucketBytes };
    }
    const id = Buffer.from([kinds.shm, ...Buffer.from(this.#controlPath(order.number))]);
    return { id, leastBucketBytes: 0 };
  }

  async open({ number, id }: Communicator, ranks: readonly number[]): Promise<Collective> {
    const membership = {
      id: id.subarray(1),
      rank: ranks.indexOf(this.#rank),
      worldSize: ranks.length,
    };
    if (id[0] === kinds.shm) return ShmCollective.open({ ...membership, device: this.#device });
    const isNccl = id[0] === kinds.nccl || id[0] === kinds.ncclOnSharedDevices;
    if (!isNccl || !(this.#device instanceof CudaDevice)) {
      throw new ProtocolError(
        `rank ${this.#rank} on device ${this.#device.uuid} cannot open a communicator of kind ${id[0]}`,
      );
    }
    // NCCL reads this once per process, with its first communicator. A value that is already set is the user's.
    if (id[0] === kinds.ncclOnSharedDevices) {
      process.env.NCCL_BUFFSIZE ??= String(sharedDevices.ncclBufferBytes);
    }
    return NcclCollective.open({
      ...membership,
      device: this.#device,
      controlPath: this.#controlPath(number),
      timeoutMilliseconds: this.#timeoutMilliseconds,
    });
  }

  #usesNccl({ hosts, sharesDevices }: CommunicatorRequest): boolean {
    const preference = this.#preference ?? (hosts === 1 && sharesDevices ? 'copies' : null);
    if (preference === 'copies' && hosts === 1) return false;
    const reason = ncclObstacle(sharesDevices);
    if (reason === null) return true;
    if (hosts > 1) throw new NativeError(`ranks on ${hosts} hosts need NCCL: ${reason}`);
    if (preference === 'nccl') throw new NativeError(`NCCL cannot connect the ranks: ${reason}`);
    this.#log.warn({ reason }, 'ranks copy from each other instead of broadcasting through NCCL');
    return false;
  }

  #controlPath(number: number): string {
    return join(this.#directory, `communicator-${number}`);
  }
}

/** Parses WEIGHTCAST_COLLECTIVE; null if it is not set. Throws `UsageError`. */
export function collectivePreference(value: string | undefined): CollectiveKind | null {
  if (value === undefined || value === 'nccl' || value === 'copies') return value ?? null;
  throw new UsageError(`WEIGHTCAST_COLLECTIVE must be "nccl" or "copies", not ${JSON.stringify(value)}`);
}

/** Why NCCL cannot connect the ranks, or null if it can. */
function ncclObstacle(sharesDevices: boolean): string | null {
  try {
    const { version, allowsSharedDevices } = probeNccl();
    if (allowsSharedDevices || !sharesDevices) return null;
    return `NCCL ${version} refuses several ranks on one GPU; 2.30.7 or newer allows them`;
  } catch (error) {
    return describe(error);
  }
}
