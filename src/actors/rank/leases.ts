import { isBefore, type SegmentStore } from '../../checkpoint/segment-store.ts';
import type { Exposure, Fabric } from '../../native-bridge/fabric.ts';
import type { Mapping } from '../../native-bridge/memory.ts';

/** Segments that peers may read: the fabric's address, and the token to read each one with. */
export interface Exposed {
  readonly address: Uint8Array;
  readonly exposed: { readonly path: string; readonly token: Uint8Array }[];
}

/**
 * The segments of a rank that peers may read. A lease defers the release of its segments until it is returned. A segment
 * stays exposed until it is released, because the next peer reads the same ones.
 */
export class Leases {
  readonly #segments: SegmentStore;
  readonly #fabric: () => Fabric;
  readonly #exposures = new Map<string, Promise<Exposure>>();
  /** Epoch to the paths that it has a lease on. */
  readonly #leased = new Map<number, ReadonlySet<string>>();
  /** To be released when the last lease on them is returned. */
  readonly #due = new Set<string>();

  constructor(segments: SegmentStore, fabric: () => Fabric) {
    this.#segments = segments;
    this.#fabric = fabric;
  }

  /** Rejects with `NativeError`, and with `CheckpointError` for an adopted file that changed. */
  async expose(paths: readonly string[]): Promise<Exposed> {
    const exposed = await Promise.all(
      paths.map(async (path) => {
        const segment = this.#segments.attach(path);
        return { path, token: (await this.#exposure(path, segment)).token };
      }),
    );
    return { address: this.#fabric().address, exposed };
  }

  /** Exposes segments under a lease, until {@link returnLease}. On a rejection there is no lease. */
  async lease(epoch: number, paths: readonly string[]): Promise<Exposed> {
    this.#leased.set(epoch, new Set([...(this.#leased.get(epoch) ?? []), ...paths]));
    try {
      return await this.expose(paths);
    } catch (error) {
      await this.returnLease(epoch);
      throw error;
    }
  }

  async returnLease(epoch: number): Promise<void> {
    if (!this.#leased.delete(epoch)) return;
    const due = [...this.#due].filter((path) => !this.isLeased(path));
    for (const path of due) this.#due.delete(path);
    await this.#end(due);
  }

  /** Whoever has leases cannot return them any more. */
  async returnAll(): Promise<void> {
    for (const epoch of [...this.#leased.keys()]) await this.returnLease(epoch);
  }

  /** Releases what earlier supervisors have left, but for what is kept. */
  sweep({
    kept,
    ...last
  }: {
    readonly set: number;
    readonly epoch: number;
    readonly kept: readonly string[];
  }): Promise<void> {
    // Another rank of the host may have removed them already.
    const exposed = [...this.#exposures.keys()].filter((path) => isBefore(path, last));
    const left = new Set([...this.#segments.leftBefore(last), ...exposed]);
    return this.release([...left].filter((path) => !kept.includes(path)));
  }

  /** Releases the memory of segments: those under lease when the last lease is returned, the others now. */
  async release(paths: readonly string[]): Promise<void> {
    for (const path of paths) if (this.isLeased(path)) this.#due.add(path);
    await this.#end(paths.filter((path) => !this.isLeased(path)));
  }

  /** Whether any epoch has a lease on it. */
  isLeased(path: string): boolean {
    return [...this.#leased.values()].some((paths) => paths.has(path));
  }

  #exposure(path: string, segment: Mapping): Promise<Exposure> {
    let exposure = this.#exposures.get(path);
    if (exposure === undefined) {
      exposure = this.#fabric().expose(segment);
      this.#exposures.set(path, exposure);
      exposure.catch(() => this.#exposures.delete(path));
    }
    return exposure;
  }

  async #end(paths: readonly string[]): Promise<void> {
    const exposures = paths.flatMap((path) => this.#exposures.get(path) ?? []);
    for (const path of paths) this.#exposures.delete(path);
    await Promise.allSettled(exposures.map(async (exposure) => (await exposure).close()));
    await this.#segments.forget(paths);
  }
}
