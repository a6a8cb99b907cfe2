import { shardTensor } from '../../scenarios/reference-engine/sharding.ts';
import { type Cuts, WHOLE } from '../../src/checkpoint/cuts.ts';
import { type Manifest, tensorAt } from '../../src/checkpoint/manifest.ts';

interface Place {
  readonly ranks: number;
  readonly rank: number;
}

/** What one of several ranks keeps by the rules of vLLM's parallel layers. */
export function keptCuts(manifest: Manifest, place: Place): Cuts {
  const cuts = manifest.names.map((_, row) => {
    return shardTensor(tensorAt(manifest, row), { ...place, keyValueHeads: null }).cut;
  });
  return {
    dims: Uint8Array.from(cuts, (cut) => cut?.dim ?? WHOLE),
    starts: Uint32Array.from(cuts, (cut) => cut?.start ?? 0),
    lengths: Uint32Array.from(cuts, (cut) => cut?.length ?? 1),
  };
}

const expertOf = /\.experts\.(\d+)\./;

/** The same with `--enable-expert-parallel`: of `experts` in each layer it keeps those that follow each other in its place, whole. */
export function keptCutsByExpert(manifest: Manifest, place: Place, experts: number): Cuts {
  const cuts = keptCuts(manifest, place);
  for (const [row, name] of manifest.names.entries()) {
    const expert = expertOf.exec(name)?.[1];
    if (expert === undefined) continue;
    const isOwn = Math.floor((Number(expert) * place.ranks) / experts) === place.rank;
    cuts.dims[row] = isOwn ? WHOLE : 0;
    cuts.starts[row] = 0;
    cuts.lengths[row] = isOwn ? 1 : 0;
  }
  return cuts;
}
