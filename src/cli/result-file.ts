import { writeFileSync } from 'node:fs';
import { describe, NativeError, toWire, type WeightcastError } from '../errors.ts';

/** Its work was done, and cannot be written down. */
class UnwrittenError extends NativeError {}

/** Writes down what a command has done, where a file was given for it. Throws `NativeError`. */
export function writeOutput(file: string | undefined, text: () => string): void {
  if (file === undefined) return;
  try {
    writeFileSync(file, text());
  } catch (thrown) {
    throw new UnwrittenError(`the update has succeeded, but ${file} was not written: ${describe(thrown)}`);
  }
}

/** The file of `--json`. Throws `NativeError`. */
export function writeResult(file: string | undefined, result: object): void {
  writeOutput(file, () => jsonOf(result));
}

/** Rejects as `work` does, after it has been written down, with what became of each instance where there was an update. */
export async function withFailureWritten<T>(file: string | undefined, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (thrown) {
    if (file === undefined || thrown instanceof UnwrittenError) throw thrown;
    const { code, message, instances = [] } = toWire(thrown);
    try {
      writeFileSync(file, jsonOf({ error: { code, message }, instances }));
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

function jsonOf(result: object): string {
  return `${JSON.stringify(result, null, 2)}\n`;
}
