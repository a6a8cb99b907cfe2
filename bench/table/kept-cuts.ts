import { shardTensor } from '../../scenarios/reference-engine/sharding.ts';
import { type Cuts, WHOLE } from '../../src/checkpoint/cuts.ts';
import { type Manifest, tensorAt } from '../../src/checkpoint/manifest.ts';

/** What one of several ranks keeps by the rules of vLLM's parallel layers. */
export function keptCuts(manifest: Manifest, place: { readonly ranks: number; readonly rank: number }): Cuts {
  const cuts = manifest.names.map((_, row) => {
    return shardTensor(tensorAt(manifest, row), { ...place, keyValueHeads: null }).cut;
  });
  return {
    dims: Uint8Array.from(cuts, (cut) => cut?.dim ?? WHOLE),
    starts: Uint32Array.from(cuts, (cut) => cut?.start ?? 0),
    lengths: Uint32Array.from(cuts, (cut) => cut?.length ?? 1),
  };
}
