import assert from 'node:assert/strict';

/**
 * Cuts a list of weights into contiguous shares as evenly as whole items allow: no other cut has a smaller largest
 * share, and within that limit the shares are close to each other. The largest is at most the average plus one item.
 *
 * Weights are whole numbers ≥ 0 whose sum is below 2^53. Share `i` is items `starts[i]` up to `starts[i + 1]`; with
 * fewer items than shares some are empty.
 */
export function contiguousShares(weights: Float64Array, shares: number): Uint32Array {
  assert.ok(shares > 0, 'there is at least one share');
  return cut(weights, prefixSums(weights), shares);
}

/** The same with the fewest shares of at most `limit` each, or of the largest weight if that is more. */
export function fewestShares(weights: Float64Array, limit: number): Uint32Array {
  const sums = prefixSums(weights);
  return cut(weights, sums, sharesNeeded(sums, Math.max(limit, largestOf(weights)))[0]!);
}

function cut(weights: Float64Array, sums: Float64Array, shares: number): Uint32Array {
  const limit = smallestLimit(sums, weights, shares);
  const needed = sharesNeeded(sums, limit);
  const starts = new Uint32Array(shares + 1);
  let item = 0;
  for (let share = 0; share < shares; share += 1) {
    starts[share] = item;
    const sharesAfter = shares - share - 1;
    const from = sums[item]!;
    const target = (sums.at(-1)! - from) / (sharesAfter + 1);
    // While the rest would not fit into the other shares, or the next item brings this share nearer to the target.
    while (item < weights.length && sums[item + 1]! - from <= limit) {
      const nearer = sums[item]! + weights[item]! / 2 - from <= target;
      if (needed[item]! <= sharesAfter && !nearer) break;
      item += 1;
    }
  }
  assert.equal(item, weights.length, 'every item is in a share');
  starts[shares] = item;
  return starts;
}

function prefixSums(weights: Float64Array): Float64Array {
  const sums = new Float64Array(weights.length + 1);
  for (let item = 0; item < weights.length; item += 1) sums[item + 1] = sums[item]! + weights[item]!;
  return sums;
}

function largestOf(weights: Float64Array): number {
  return weights.reduce((a, b) => Math.max(a, b), 0);
}

/** The smallest size of share with which all items fit, by bisection. */
function smallestLimit(sums: Float64Array, weights: Float64Array, shares: number): number {
  const largest = largestOf(weights);
  const average = Math.ceil(sums.at(-1)! / shares);
  let low = Math.max(largest, average);
  let high = average + largest;
  while (low < high) {
    const middle = low + Math.floor((high - low) / 2);
    if (sharesNeeded(sums, middle)[0]! <= shares) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** How many shares of at most `limit` the items from each position on need. */
function sharesNeeded(sums: Float64Array, limit: number): Uint32Array {
  const count = sums.length - 1;
  const needed = new Uint32Array(count + 1);
  let end = count;
  for (let item = count - 1; item >= 0; item -= 1) {
    while (sums[end]! - sums[item]! > limit) end -= 1;
    needed[item] = needed[end]! + 1;
  }
  return needed;
}
