import fc from 'fast-check';

/** How long all runs, and after a failure the search for a smaller example, may take. */
const limitMilliseconds = 10_000;

/**
 * Checks a property on so many random examples. A failure shows the smallest example found, and the seed and path by
 * which `fc.assert(property, { seed, path })` begins with the example that failed first.
 */
export function checkProperty<Examples>(property: fc.IProperty<Examples>, runs = 100): void {
  const details = fc.check(property, { numRuns: runs, interruptAfterTimeLimit: limitMilliseconds });
  if (!details.failed) return;
  const { seed, counterexample, counterexamplePath, errorInstance } = details;
  const path = counterexamplePath?.split(':')[0] ?? 'none: no example was run';
  const reason = errorInstance instanceof Error ? errorInstance.message : String(errorInstance);
  const where = `seed ${seed}, path "${path}"`;
  throw new Error(`fails for ${fc.stringify(counterexample).slice(0, 2_000)} (${where}): ${reason}`, {
    cause: errorInstance,
  });
}
