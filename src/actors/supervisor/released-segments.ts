import type { Segment } from '../protocol/checkpoint-values.ts';

/** Paths to remember for each host: those of the last few dozen registrations. */
const pathLimit = 256;

/**
 * Segments that nobody needs any more, by host. The ranks that are there are told at once; one that comes back later
 * is told again, since the news may have been lost with its last life. Removing what is gone already does no harm.
 */
export class ForgottenSegments {
  readonly #paths = new Map<string, string[]>();

  /** The hosts and paths to tell now. */
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
