/** Ranks of other clusters are numbered from here on, ranks of the own cluster below. */
export const firstForeignRank = 32_768;

/** A rank in an error message; a rank of another cluster by its place in the metas file. */
export function rankName(rank: number): string {
  return rank < firstForeignRank ? `rank ${rank}` : `source ${rank - firstForeignRank} of the metas file`;
}
