import { writeFileSync } from 'node:fs';
import { describe, toWire, type WeightcastError } from '../errors.ts';

/** The file of `--json`: what a command resolved with, or why it failed. */
export function writeResult(file: string | undefined, result: object): void {
  if (file !== undefined) writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`);
}

/** Rejects as `work` does, after it has been written down, with what became of each instance where there was an update. */
export async function withFailureWritten<T>(file: string | undefined, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (thrown) {
    const { code, message, instances = [] } = toWire(thrown);
    try {
      writeResult(file, { error: { code, message }, instances });
    } catch (unwritten) {
      process.stderr.write(`${file} was not written: ${describe(unwritten)}\n`);
    }
    throw thrown;
  }
}

/** The same failure in other words. */
export function reworded<E extends WeightcastError>(error: E, { instances }: Partial<WeightcastError>): E {
  return instances === undefined ? error : Object.assign(error, { instances });
}
