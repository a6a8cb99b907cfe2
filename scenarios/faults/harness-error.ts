/** What went wrong before a fault was injected: it says nothing of what becomes of the fault. */
export class HarnessError extends Error {}

/** Runs what a fault waits for. */
export async function beforeFault<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (thrown) {
    throw new HarnessError(thrown instanceof Error ? thrown.message : String(thrown), { cause: thrown });
  }
}
