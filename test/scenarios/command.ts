import { fileURLToPath } from 'node:url';
import type { Scope } from '../checkpoint/safetensors-files.ts';
import { Program } from '../program.ts';

/** A script of this repository, started as a user starts it; killed at the end of the test. */
export class Command extends Program {
  /** `script`: path of the source from the repository's root; the tests run what it is compiled to. */
  constructor(test: Scope, script: string, ...options: string[]) {
    const path = fileURLToPath(new URL(`../../${script.replace(/\.ts$/, '.js')}`, import.meta.url));
    super(test, [process.execPath, path, ...options], { lastSignal: 'SIGKILL' });
  }

  /** As Ctrl-C does. */
  interrupt(): void {
    this.kill('SIGINT');
  }
}
