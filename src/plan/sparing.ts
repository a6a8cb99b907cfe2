import { type Cuts, isKept } from '../checkpoint/cuts.ts';
import { arrivalDigest } from '../checkpoint/manifest.ts';

/**
 * Whole tensors go to all ranks of an instance, but a rank need not announce those to its engine worker of which this keeps
 * nothing, as other ranks' experts: a worker takes longer to pass over a tensor than its bytes take on the links.
 */

/** Rows that are sent only because no worker keeps anything of them. `sent` goes with `kept`, of the same rank. */
export function unclaimedRows(kept: Cuts, sent: Cuts): Uint32Array {
  const rows: number[] = [];
  for (let row = 0; row < sent.dims.length; row += 1)
    if (isKept(sent, row) && !isKept(kept, row)) rows.push(row);
  return Uint32Array.from(rows);
}

/** By the rows of a manifest, 1 for those that are announced to a worker that keeps this, and to which rows `also` are. */
export function announcedRows(kept: Cuts, also: Uint32Array): Uint8Array {
  const rows = Uint8Array.from(kept.dims, (_, row) => (isKept(kept, row) ? 1 : 0));
  for (const row of also) rows[row] = 1;
  return rows;
}

/** `arrivalDigest` of some rows, in their order. `digests`: of all rows. */
export function arrivalOf(digests: BigUint64Array, isAnnounced: (row: number) => boolean): string {
  return arrivalDigest(digests.filter((_, row) => isAnnounced(row)));
}
