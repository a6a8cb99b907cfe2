import { decodeManifest, type Manifest } from '../../checkpoint/manifest.ts';
import type { Plan } from '../../plan/plan.ts';

/** Two sets of segments that checkpoints alternate between, and another checkpoint beside them. */
const keptOfEach = 4;

/**
 * Manifests and plans that a rank keeps from update to update, the last few it has used: what it holds is not sent again.
 * Of a kept manifest the digests may be those of an earlier checkpoint; everything else follows from the layout.
 */
export class HeldLayouts {
  /** The longest unused first. */
  readonly #manifests = new Map<string, Manifest>();
  readonly #plans = new Map<string, Plan>();

  get layouts(): string[] {
    return [...this.#manifests.keys()];
  }

  get planDigests(): string[] {
    return [...this.#plans.keys()];
  }

  /** Takes what was sent, and marks what is asked for as used. Undefined for what is neither sent nor held. */
  use(order: {
    readonly layout: string;
    readonly manifest: Uint8Array | null;
    readonly planDigest: string;
    readonly plan: Plan | null;
  }): { readonly manifest: Manifest | undefined; readonly plan: Plan | undefined } {
    const { layout, manifest, planDigest, plan } = order;
    return {
      manifest: touch(this.#manifests, layout, manifest === null ? undefined : decodeManifest(manifest)),
      plan: touch(this.#plans, planDigest, plan?.digest === planDigest ? plan : undefined),
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
