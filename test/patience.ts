/** Longest that a test waits for what must come, in milliseconds: longer than it takes on the busiest machine. */
export const patience = 120_000;

/** The same for a whole program of tests. */
export const longPatience = 5 * patience;

/** How much processor time is used to find out how busy the machine is, in milliseconds. */
const sample = 20;

/**
 * As many milliseconds as it may take now what takes so many on a machine that does nothing else: more by as much as this
 * process waits for a processor.
 */
export function timeBudget(milliseconds: number): number {
  const begun = performance.now();
  const before = process.cpuUsage();
  let used = 0;
  while (used < sample) {
    const { user, system } = process.cpuUsage(before);
    used = (user + system) / 1_000;
  }
  return milliseconds * Math.max(1, (performance.now() - begun) / used);
}
