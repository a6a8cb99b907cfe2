import { type ChildProcess, spawn } from 'node:child_process';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';

export interface Ended {
  readonly code: number | null;
  readonly output: string;
  readonly errors: string;
}

/** A script of this repository, started as a user starts it; killed at the end of the test. */
export class Command {
  readonly #child: ChildProcess;
  readonly ended: Promise<Ended>;
  output = '';
  errors = '';

  /** `script`: path of the source from the repository's root; the tests run what it is compiled to. */
  constructor(test: TestContext, script: string, ...options: string[]) {
    const path = fileURLToPath(new URL(`../../${script.replace(/\.ts$/, '.js')}`, import.meta.url));
    this.#child = spawn(process.execPath, [path, ...options], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child.stdout!.setEncoding('utf8').on('data', (text) => {
      this.output += text;
    });
    this.#child.stderr!.setEncoding('utf8').on('data', (text) => {
      this.errors += text;
    });
    this.ended = new Promise((resolve) =>
      this.#child.once('close', (code) => resolve({ code, output: this.output, errors: this.errors })),
    );
    test.after(() => this.#child.kill('SIGKILL'));
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Sends SIGINT, as Ctrl-C does, or another signal. */
  interrupt(signal: NodeJS.Signals = 'SIGINT'): void {
    this.#child.kill(signal);
  }
}
