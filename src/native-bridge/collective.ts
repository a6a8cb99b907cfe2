import { rmSync } from 'node:fs';
import {
  addon,
  type Interval,
  type NativeCudaBuffer,
  type NativeMapping,
  type NativeShmCollective,
} from './addon.ts';
import { awaitNative, callNative } from './call.ts';
import { asCudaBuffer, CudaDevice } from './cuda-device.ts';
import type { Device, DeviceBuffer } from './device.ts';
import { asHostBuffer } from './host-device.ts';

/** A place in device memory. */
export interface DevicePlace {
  readonly buffer: DeviceBuffer;
  /** In bytes from the start of the buffer. */
  readonly offset: number;
}

export interface BroadcastOptions {
  /** Place of the owner among the members. */
  readonly root: number;
  /** Where the bytes lie; given on the root, null elsewhere. */
  readonly source: DevicePlace | null;
  /** May be the source itself on the root; nothing is copied there then. */
  readonly destination: DevicePlace;
  readonly bytes: number;
  /**
   * Looked at on the root: the others let go of its memory before this resolves there. What is not let go of stays open
   * for later broadcasts, and must not be freed.
   */
  readonly letsGo: boolean;
  /** Counted from the call, so it covers the operations queued before this one. */
  readonly timeoutMilliseconds: number;
}

/**
 * Broadcast among the devices of a fixed set of members. Every member issues the same operations in the same order,
 * as many at a time as it likes; they run in that order.
 *
 * The first failure on any member ends the collective for all of them: every later operation fails for the same
 * reason. Members then open a new one.
 */
export interface Collective {
  /**
   * On the root it resolves when the source may change, elsewhere when this member has its copy. Rejects with
   * `AbortedError`, `DeadlineError` or `PeerLostError`, which names the member. No bytes of `destination` change
   * once it has settled, unless it says that the device is lost.
   */
  broadcast(options: BroadcastOptions): Promise<Interval>;
  /** Ends what is in flight on all members with `AbortedError`. May be called twice. */
  abort(): void;
  /** Aborts what is in flight here and leaves; members that still need this one find it lost. May be called twice. */
  close(): void;
}

/** Which member of which collective, and on which device. */
export interface Membership {
  /** What all members give to meet each other; no other collective ever uses it. */
  readonly id: Uint8Array;
  readonly device: Device;
  readonly rank: number;
  readonly worldSize: number;
}

/**
 * A collective among devices of one host, all of one kind, through a control file in shared memory. Receivers copy from
 * the root's memory: on host devices with the processor, on CUDA devices within the GPU or from GPU to GPU, which have
 * to be able to reach each other.
 */
export class ShmCollective implements Collective {
  readonly #native: NativeShmCollective;
  readonly #memoryOf: (buffer: DeviceBuffer) => NativeMapping | NativeCudaBuffer;
  readonly #path: string;

  private constructor(device: Device, native: NativeShmCollective, path: string) {
    this.#native = native;
    this.#memoryOf =
      device instanceof CudaDevice
        ? (buffer) => asCudaBuffer(buffer).native
        : (buffer) => asHostBuffer(buffer).mapping.native;
    this.#path = path;
  }

  /** Joins. The id is the path of the control file, in UTF-8; whoever comes first makes the file. */
  static async open({ id, device, rank, worldSize }: Membership): Promise<ShmCollective> {
    const path = new TextDecoder().decode(id);
    const cudaDevice = device instanceof CudaDevice ? device.native : null;
    const native = callNative(() => new addon.ShmCollective({ path, device: cudaDevice, rank, worldSize }));
    return new ShmCollective(device, native, path);
  }

  /** On the root it resolves when every member has its copy. */
  async broadcast(options: BroadcastOptions): Promise<Interval> {
    const { root, source, destination, bytes, letsGo, timeoutMilliseconds } = options;
    return awaitNative(
      this.#native.broadcast({
        root,
        source: source === null ? null : this.#memoryOf(source.buffer),
        sourceOffset: source?.offset ?? 0,
        destination: this.#memoryOf(destination.buffer),
        destinationOffset: destination.offset,
        bytes,
        letsGo,
        timeoutMilliseconds,
      }),
    );
  }

  abort(): void {
    this.#native.abort();
  }

  close(): void {
    this.#native.close();
    // Native code removes it when the last member leaves, which never comes to pass if one was killed.
    rmSync(this.#path, { force: true });
  }
}
