import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Puts a command into a directory, and returns its path. `body`: of a shell script. */
export function writeCommand(directory: string, name: string, body: string): string {
  const path = join(directory, name);
  writeFileSync(path, `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  return path;
}

/** A command `weightcast` that is what the tests run. `words`: as a shell has them, those that it passes on. */
export function writeWeightcast(directory: string, words = '"$@"', before = ''): string {
  const main = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
  return writeCommand(directory, 'weightcast', `${before}exec '${process.execPath}' '${main}' ${words}`);
}
