import { join } from 'node:path';
import type { Communicator, NewCommunicator } from '../actors/message-values.ts';
import { describe, NativeError, ProtocolError, UsageError } from '../errors.ts';
import { type Collective, ShmCollective } from '../native-bridge/collective.ts';
import { CudaDevice } from '../native-bridge/cuda-device.ts';
import type { Device } from '../native-bridge/device.ts';
import { NcclCollective, probeNccl } from '../native-bridge/nccl-collective.ts';
import type { Logger } from '../ports.ts';

/** The first byte of a communicator's id, which says what the rest of it is. */
const kinds = { shm: 0, nccl: 1 } as const;

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
  get reach(): 'host' | 'cluster' {
    return this.#device instanceof CudaDevice && whyNotNccl(false) === null ? 'cluster' : 'host';
  }

  /**
   * The id of a new communicator. CUDA devices are joined by NCCL; without one that will do, ranks of one host copy from
   * each other. Ranks that share a device always do if they are on one host: NCCL's kernels would take turns on it, and
   * its buffers take 0.6 to 1.2 GiB a rank. Throws `NativeError` where NCCL is needed and missing.
   */
  create(order: NewCommunicator): Uint8Array {
    if (this.#device instanceof CudaDevice && this.#usesNccl(order)) {
      return Buffer.from([kinds.nccl, ...NcclCollective.uniqueId()]);
    }
    return Buffer.from([kinds.shm, ...Buffer.from(this.#controlPath(order.number))]);
  }

  async open({ number, id }: Communicator, ranks: readonly number[]): Promise<Collective> {
    const membership = {
      id: id.subarray(1),
      rank: ranks.indexOf(this.#rank),
      worldSize: ranks.length,
    };
    if (id[0] === kinds.shm) return ShmCollective.open({ ...membership, device: this.#device });
    if (id[0] !== kinds.nccl || !(this.#device instanceof CudaDevice)) {
      throw new ProtocolError(
        `rank ${this.#rank} on device ${this.#device.uuid} cannot open a communicator of kind ${id[0]}`,
      );
    }
    return NcclCollective.open({
      ...membership,
      device: this.#device,
      controlPath: this.#controlPath(number),
      timeoutMilliseconds: this.#timeoutMilliseconds,
    });
  }

  #usesNccl({ hosts, sharesDevices }: NewCommunicator): boolean {
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
