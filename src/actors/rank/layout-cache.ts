import { decodeManifest, type Manifest } from '../../checkpoint/manifest.ts';
import type { Plan } from '../../plan/plan.ts';
import { decodePlan } from '../../plan/plan-codec.ts';

/** Enough for two checkpoints that each alternate between two sets of segments. */
const keptOfEach = 4;

/**
 * The manifests and plans that a rank used last, so that they need not be sent again. The digests in a cached manifest
 * may be those of an earlier checkpoint of the same layout; everything else follows from the layout.
 */
export class LayoutCache {
  /** The least recently used first. */
  readonly #manifests = new Map<string, Manifest>();
  readonly #plans = new Map<string, Plan>();

  get layouts(): string[] {
    return [...this.#manifests.keys()];
  }

  get planDigests(): string[] {
    return [...this.#plans.keys()];
  }

  /** Stores what was sent, encoded, and returns what the request names. Undefined for what is neither sent nor cached. */
  use(request: {
    readonly layout: string;
    readonly manifest: Uint8Array | null;
    readonly planDigest: string;
    readonly plan: Uint8Array | null;
  }): { readonly manifest: Manifest | undefined; readonly plan: Plan | undefined } {
    const { layout, manifest, planDigest, plan } = request;
    const sent = plan === null ? undefined : decodePlan(plan);
    return {
      manifest: touch(this.#manifests, layout, manifest === null ? undefined : decodeManifest(manifest)),
      plan: touch(this.#plans, planDigest, sent?.digest === planDigest ? sent : undefined),
    };
  }
}

function touch<T>(table: Map<string, T>, key: string, sent: T | undefined): T | undefined {
  const value = sent ?? table.get(key);
  if (value === undefined) return undefined;
  table.delete(key);
  table.set(key, value);
  if (table.size > keptOfEach) table.delete(table.keys().next().value!);
  return value;
}
