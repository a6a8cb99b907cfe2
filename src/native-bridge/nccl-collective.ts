import { rmSync } from 'node:fs';
import { addon, type Interval, type NativeNcclCollective, type NcclProbe } from './addon.ts';
import { awaitNative, callNative } from './call.ts';
import type { BroadcastOptions, Collective, Membership } from './collective.ts';
import { asCudaBuffer, type CudaDevice } from './cuda-device.ts';

/**
 * The NCCL that WEIGHTCAST_NCCL names, or else the system's libnccl.so.2. Throws `NativeError`, which says what to do,
 * where there is none or an old one.
 */
export function probeNccl(): NcclProbe {
  return callNative(() => addon.probeNccl());
}

/**
 * A collective among CUDA devices, of one host or several, through NCCL.
 *
 * Members of one host share a control file, and with it what {@link Collective} promises: all of them learn within
 * milliseconds of the first failure, and within about 100 ms that one of them has died or left. Members of other hosts
 * find out when NCCL does, when they are aborted too, or at their deadlines.
 *
 * A promise may also reject with `DeviceLostError`: NCCL did not let go of the device when it was told to, and the
 * process has to be started again.
 */
export class NcclCollective implements Collective {
  readonly #native: NativeNcclCollective;
  readonly #path: string;
  #closed: Promise<void> | null = null;

  private constructor(native: NativeNcclCollective, path: string) {
    this.#native = native;
    this.#path = path;
  }

  /**
   * An id for a new communicator: 128 bytes, which one member makes and all give. This process then has a thread that
   * waits for the members, until all have come.
   */
  static uniqueId(): Uint8Array {
    return callNative(() => addon.ncclUniqueId());
  }

  /**
   * Meets the other members. Resolves when all of them have come; rejects as a broadcast does if they do not within
   * `timeoutMilliseconds`. `controlPath` is a file that the members of this host have in common and no other collective
   * ever uses; whoever comes first makes it.
   */
  static async open(
    options: Membership & {
      readonly device: CudaDevice;
      readonly controlPath: string;
      readonly timeoutMilliseconds: number;
    },
  ): Promise<NcclCollective> {
    const { device, id, controlPath: path, rank, worldSize, timeoutMilliseconds } = options;
    const native = callNative(
      () => new addon.NcclCollective({ device: device.native, id, path, rank, worldSize }),
    );
    const collective = new NcclCollective(native, path);
    try {
      await awaitNative(native.open({ timeoutMilliseconds }));
    } catch (error) {
      // What NCCL holds is given back before anyone hears of it; that it was not is what `error` then says.
      await collective.closed().catch(() => {});
      throw error;
    }
    return collective;
  }

  /** On the root it resolves when the source may change, which is before the last member has its copy. */
  broadcast(options: BroadcastOptions): Promise<Interval> {
    const { root, source, destination, bytes, timeoutMilliseconds } = options;
    return awaitNative(
      this.#native.broadcast({
        root,
        source: source === null ? null : asCudaBuffer(source.buffer).native,
        sourceOffset: source?.offset ?? 0,
        destination: asCudaBuffer(destination.buffer).native,
        destinationOffset: destination.offset,
        bytes,
        timeoutMilliseconds,
      }),
    );
  }

  abort(): void {
    this.#native.abort();
  }

  close(): void {
    this.closed().catch(() => {});
  }

  /** Closes. Resolves when everything is given back to the device; rejects with `DeviceLostError` if that fails. */
  closed(): Promise<void> {
    this.#closed ??= awaitNative(this.#native.close()).finally(() => rmSync(this.#path, { force: true }));
    return this.#closed;
  }
}
