import type { Segment } from '../protocol/checkpoint-values.ts';

/** Paths remembered per host: those of the last few dozen registrations. */
const pathLimit = 256;

/**
 * Segments that are no longer needed, by host. Ready ranks are notified at once; a rank that becomes ready later is
 * notified then, because its previous process may have ended before it removed them. Removing a segment twice is harmless.
 */
export class ReleasedSegments {
  readonly #paths = new Map<string, string[]>();

  /** Returns the paths by host. */
  add(segments: readonly Segment[]): ReadonlyMap<string, readonly string[]> {
    const added = new Map<string, string[]>();
    for (const { path, host } of segments) {
      const paths = added.get(host);
      if (paths === undefined) added.set(host, [path]);
      else paths.push(path);
    }
    for (const [host, paths] of added) {
      this.#paths.set(host, [...this.of(host), ...paths].slice(-pathLimit));
    }
    return added;
  }

  of(host: string): readonly string[] {
    return this.#paths.get(host) ?? [];
  }
}
