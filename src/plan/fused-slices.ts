import type { FusedUnits } from './fused-tensors.ts';
import type { Slices } from './slices.ts';

/** Slices that share fused tensors, directly or through others: one host has to have all of a set. */
export function fusedSlices({ sliceOf }: Slices, { units }: FusedUnits): number[][] {
  const setOf = new Map<number, Set<number>>();
  for (const rows of units) {
    const slices = new Set(rows.map((row) => sliceOf[row]!));
    if (slices.size === 1) continue;
    const joined = new Set([...slices].flatMap((slice) => [slice, ...(setOf.get(slice) ?? [])]));
    for (const slice of joined) setOf.set(slice, joined);
  }
  return [...new Set(setOf.values())].map((set) => [...set].sort((a, b) => a - b));
}
