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

/** The first byte of a communicator's id, which says what the rest of it is. */
const kinds = { shm: 0, nccl: 1, ncclOnSharedDevices: 2 } as const;

/**
 * Processes take turns on a GPU, of some milliseconds each, and a kernel of NCCL that waits for another rank's uses its
 * turn up. Ranks that share a GPU therefore need few broadcasts, and buffers that a whole one fits into: with these four
 * ranks take 8.9 GB in 0.3 s, without them in 0.9 s (bench/results/collective.md).
 */
const sharedDevices = { bucketBytes: 512 * 2 ** 20, ncclBufferBytes: 16 * 2 ** 20 } as const;

export type CollectiveKind = 'nccl' | 'copies';

/** Creates and opens the communicators in which a rank process takes part. */
export class Communicators {
  readonly #device: Device;
  readonly #directory: string;
  readonly #rank: number;
  readonly #wish: CollectiveKind | null;
  readonly #timeoutMilliseconds: number;
  readonly #log: Logger;

  constructor(options: {
    readonly device: Device;
    /** Shared by the processes of this host; ends with the last of them. */
    readonly directory: string;
    readonly rank: number;
    /** Which way CUDA devices are to be joined where either would do; null for the better one. */
    readonly wish: CollectiveKind | null;
    /** How long members wait for each other. */
    readonly timeoutMilliseconds: number;
    readonly log: Logger;
  }) {
    this.#device = options.device;
    this.#directory = options.directory;
    this.#rank = options.rank;
    this.#wish = options.wish;
    this.#timeoutMilliseconds = options.timeoutMilliseconds;
    this.#log = options.log;
  }

  /** Whether ranks of several hosts can be joined. */
  get scope(): 'host' | 'cluster' {
    return this.#device instanceof CudaDevice && whyNotNccl(false) === null ? 'cluster' : 'host';
  }

  /**
   * A new communicator. CUDA devices are joined by NCCL; without one that will do, ranks of one host copy from
   * each other. Ranks that share a device always do if they are on one host: NCCL's kernels would take turns on it, and
   * its buffers take 2 GiB a rank. Throws `NativeError` where NCCL is needed and missing.
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
    // NCCL reads it once a process, when it opens its first communicator. An existing value is the user's.
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
    const wish = this.#wish ?? (hosts === 1 && sharesDevices ? 'copies' : null);
    if (wish === 'copies' && hosts === 1) return false;
    const reason = whyNotNccl(sharesDevices);
    if (reason === null) return true;
    if (hosts > 1) throw new NativeError(`ranks on ${hosts} hosts need NCCL: ${reason}`);
    if (wish === 'nccl') throw new NativeError(`ranks cannot be joined by NCCL: ${reason}`);
    this.#log.warn({ reason }, 'ranks copy from each other instead of broadcasting through NCCL');
    return false;
  }

  #controlPath(number: number): string {
    return join(this.#directory, `communicator-${number}`);
  }
}

/** What WEIGHTCAST_COLLECTIVE says. Throws `UsageError`. */
export function collectiveWish(value: string | undefined): CollectiveKind | null {
  if (value === undefined || value === 'nccl' || value === 'copies') return value ?? null;
  throw new UsageError(`WEIGHTCAST_COLLECTIVE must be "nccl" or "copies", not ${JSON.stringify(value)}`);
}

/** Why NCCL cannot join the ranks, or null if it can. */
function whyNotNccl(sharesDevices: boolean): string | null {
  try {
    const { version, allowsSharedDevices } = probeNccl();
    if (allowsSharedDevices || !sharesDevices) return null;
    return `NCCL ${version} refuses several ranks on one GPU; 2.30.7 or newer allows them`;
  } catch (error) {
    return describe(error);
  }
}
