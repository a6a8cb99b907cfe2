import { rmSync } from 'node:fs';
import { addon, asWeightcastError, type Interval, type NativeShmCollective } from './addon.ts';
import type { DeviceBuffer } from './device.ts';
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
   * On the root it resolves when every member has its copy, elsewhere when this member has. Rejects with
   * `AbortedError`, `DeadlineError` or `PeerLostError`, which names the member. No bytes of `destination` change
   * once it has settled.
   */
  broadcast(options: BroadcastOptions): Promise<Interval>;
  /** Ends what is in flight on all members with `AbortedError`. May be called twice. */
  abort(): void;
  /** Aborts what is in flight here and leaves; members that still need this one find it lost. May be called twice. */
  close(): void;
}

/** A collective among host devices of one host, through a control file in shared memory. */
export class ShmCollective implements Collective {
  readonly #native: NativeShmCollective;
  readonly #path: string;

  private constructor(native: NativeShmCollective, path: string) {
    this.#native = native;
    this.#path = path;
  }

  /**
   * Joins as member `rank` of `worldSize`. All members name the same `path`, which no other collective ever uses;
   * whoever comes first makes the file.
   */
  static open(options: {
    readonly path: string;
    readonly rank: number;
    readonly worldSize: number;
  }): ShmCollective {
    try {
      return new ShmCollective(new addon.ShmCollective(options), options.path);
    } catch (error) {
      throw asWeightcastError(error);
    }
  }

  async broadcast(options: BroadcastOptions): Promise<Interval> {
    const { root, source, destination, bytes, timeoutMilliseconds } = options;
    try {
      return await this.#native.broadcast({
        root,
        source: source === null ? null : asHostBuffer(source.buffer).mapping.native,
        sourceOffset: source?.offset ?? 0,
        destination: asHostBuffer(destination.buffer).mapping.native,
        destinationOffset: destination.offset,
        bytes,
        timeoutMilliseconds,
      });
    } catch (error) {
      throw asWeightcastError(error);
    }
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
