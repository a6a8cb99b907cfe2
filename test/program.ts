import assert from 'node:assert/strict';
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Scope } from './checkpoint/safetensors-files.ts';
import { eventually } from './eventually.ts';

export interface Ended {
  /** Null if a signal has ended it. */
  readonly code: number | null;
  /** Of standard output. */
  readonly output: string;
  /** Of standard error. */
  readonly errors: string;
  /** Of both, as it came. */
  readonly said: string;
}

export type Variables = Readonly<Record<string, string | undefined>>;

export interface ProgramOptions {
  /** Beside those of this process. */
  readonly variables?: Variables;
  /** How it is ended with the test. Default: SIGTERM, since it may have processes of its own to end. */
  readonly lastSignal?: NodeJS.Signals;
}

/** A program that a test has started, and what it has said so far. It ends with the test. */
export class Program {
  readonly #child: ChildProcessWithoutNullStreams;
  /** Rejects if it cannot be started. */
  readonly ended: Promise<Ended>;
  output = '';
  errors = '';
  said = '';

  constructor(test: Scope, words: readonly string[], options: ProgramOptions = {}) {
    const { variables = {}, lastSignal = 'SIGTERM' } = options;
    this.#child = spawn(words[0]!, words.slice(1), { env: { ...process.env, ...variables } });
    this.#child.stdout.setEncoding('utf8').on('data', (text) => {
      this.output += text;
      this.said += text;
    });
    this.#child.stderr.setEncoding('utf8').on('data', (text) => {
      this.errors += text;
      this.said += text;
    });
    // It may end without having read what it is told.
    this.#child.stdin.on('error', () => {});
    this.ended = once(this.#child, 'close').then(([code]) => {
      const { output, errors, said } = this;
      return { code, output, errors, said };
    });
    // Nobody may be waiting yet.
    this.ended.catch(() => {});
    test.after(async () => {
      this.kill(lastSignal);
      await this.ended.catch(() => {});
    });
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Resolves once it has said these words. Rejects if it ends before. */
  async says(words: string): Promise<void> {
    const early = this.ended.then(({ code, said }) => assert.fail(`it ended with ${code}:\n${said}`));
    await Promise.race([early, eventually(words, () => this.said.includes(words))]);
  }

  /** Ends its input. */
  endInput(): void {
    this.#child.stdin.end();
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Resolves with what it wrote to standard output. Rejects unless it ends with 0. */
  async succeeded(): Promise<string> {
    const { code, output, said } = await this.ended;
    assert.equal(code, 0, said);
    return output;
  }
}

/** Runs a program to its end, with nothing to read. */
export function runToEnd(words: readonly string[], variables: Variables = {}): Promise<Ended> {
  const program = new Program({ after: () => {} }, words, { variables });
  program.endInput();
  return program.ended;
}
