import { decodeManifest, type Manifest } from '../../checkpoint/manifest.ts';
import type { Plan } from '../../plan/plan.ts';
import { decodePlan } from '../../plan/plan-codec.ts';
import { RecentMap } from '../../recent-map.ts';

/** Enough for two checkpoints that each alternate between two sets of segments. */
const keptOfEach = 4;

/** `expected`: the `arrivalDigest` of the checkpoint whose digests the manifest has. */
interface Known {
  readonly manifest: Manifest;
  readonly expected: string;
}

/**
 * The manifests and plans that a rank used last, so that they need not be sent again. A layout here is a lasting one: the
 * digests in a cached manifest may be those of an earlier checkpoint, and names of files too; everything else follows from it.
 */
export class LayoutCache {
  readonly #manifests = new RecentMap<string, Known>(keptOfEach);
  readonly #plans = new RecentMap<string, Plan>(keptOfEach);

  get layouts(): string[] {
    return [...this.#manifests.keys()];
  }

  get planDigests(): string[] {
    return [...this.#plans.keys()];
  }

  /**
   * Stores what was sent, encoded, and returns what the request names. Undefined for what is neither sent nor cached.
   * `hasDigests`: whether the manifest's digests are those of the checkpoint.
   */
  use(request: {
    readonly layout: string;
    readonly manifest: Uint8Array | null;
    readonly planDigest: string;
    readonly plan: Uint8Array | null;
    /** Of the manifest, in its order. */
    readonly segments: readonly string[];
    readonly expected: string;
  }) {
    const { layout, manifest, planDigest, plan, segments, expected } = request;
    const sent = plan === null ? undefined : decodePlan(plan);
    if (manifest !== null) this.#manifests.set(layout, { manifest: decodeManifest(manifest), expected });
    if (sent?.digest === planDigest) this.#plans.set(planDigest, sent);
    const known = this.#manifests.get(layout);
    return {
      manifest: known && withSegments(known.manifest, segments),
      hasDigests: known?.expected === expected,
      plan: this.#plans.get(planDigest),
    };
  }

  /** It has to be sent again. */
  forget(layout: string): void {
    this.#manifests.delete(layout);
  }
}

/** Undefined if they are not as many. */
function withSegments(manifest: Manifest, paths: readonly string[]): Manifest | undefined {
  if (paths.length !== manifest.segments.length) return undefined;
  const segments = manifest.segments.map((segment, index) => ({ ...segment, path: paths[index]! }));
  return { ...manifest, segments };
}
