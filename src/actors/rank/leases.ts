import type { SegmentStore } from '../../checkpoint/segment-store.ts';
import type { Exposure, Fabric } from '../../native-bridge/fabric.ts';

/** A segment that peers may read, by its token. */
export interface Exposed {
  readonly path: string;
  readonly token: Uint8Array;
}

/**
 * The segments of a rank that peers may read. A lease keeps its segments from being forgotten until it is returned;
 * what was exposed stays so until it is forgotten, since the next peer wants the same.
 */
export class Leases {
  readonly #segments: SegmentStore;
  readonly #fabric: () => Fabric;
  readonly #exposures = new Map<string, Promise<Exposure>>();
  /** Epoch to the paths that are lent to it. */
  readonly #lent = new Map<number, ReadonlySet<string>>();
  /** Forgotten while they were lent. */
  readonly #due = new Set<string>();

  constructor(segments: SegmentStore, fabric: () => Fabric) {
    this.#segments = segments;
    this.#fabric = fabric;
  }

  /** Rejects with `NativeError`. */
  async expose(paths: readonly string[]): Promise<Exposed[]> {
    return Promise.all(
      paths.map(async (path) => {
        let exposure = this.#exposures.get(path);
        if (exposure === undefined) {
          exposure = this.#fabric().expose(this.#segments.attach(path));
          this.#exposures.set(path, exposure);
          exposure.catch(() => this.#exposures.delete(path));
        }
        return { path, token: (await exposure).token };
      }),
    );
  }

  /** Exposes segments, and keeps them until {@link release}. Rejects with `NativeError`; then nothing is lent. */
  async lend(epoch: number, paths: readonly string[]): Promise<Exposed[]> {
    this.#lent.set(epoch, new Set([...(this.#lent.get(epoch) ?? []), ...paths]));
    try {
      return await this.expose(paths);
    } catch (error) {
      await this.release(epoch);
      throw error;
    }
  }

  async release(epoch: number): Promise<void> {
    if (!this.#lent.delete(epoch)) return;
    const due = [...this.#due].filter((path) => !this.isLent(path));
    for (const path of due) this.#due.delete(path);
    await this.#end(due);
  }

  /** At once what nobody has under lease, the rest when it is returned. */
  async forget(paths: readonly string[]): Promise<void> {
    for (const path of paths) if (this.isLent(path)) this.#due.add(path);
    await this.#end(paths.filter((path) => !this.isLent(path)));
  }

  /** Whether somebody has it under lease. */
  isLent(path: string): boolean {
    return [...this.#lent.values()].some((paths) => paths.has(path));
  }

  async #end(paths: readonly string[]): Promise<void> {
    const exposures = paths.flatMap((path) => this.#exposures.get(path) ?? []);
    for (const path of paths) this.#exposures.delete(path);
    await Promise.allSettled(exposures.map(async (exposure) => (await exposure).close()));
    await this.#segments.forget(paths);
  }
}
