import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, rmSync } from 'node:fs';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { HostDevice } from '../../src/native-bridge/host-device.ts';
import { patience } from '../patience.ts';
import { sharedMemoryName } from '../shared-memory-name.ts';

/** The host devices, control files and processes of one test, under a namespace that no other test uses. */
export class TestHost {
  readonly namespace = sharedMemoryName();
  readonly #test: TestContext;

  constructor(test: TestContext) {
    this.#test = test;
    test.after(() => {
      // Only what a failed test left: a good one checks that there is nothing.
      for (const name of this.remains()) rmSync(`/dev/shm/${name}`, { recursive: true, force: true });
    });
  }

  /** Where a collective of this test may have its control file. */
  controlPath(): string {
    return `/dev/shm/${this.namespace}-communicator`;
  }

  device(options: { index?: number; capacity?: number } = {}): HostDevice {
    const { index = 0, capacity = 1 << 24 } = options;
    const device = HostDevice.open({ namespace: this.namespace, index, capacity, uploadThreads: 1 });
    this.#test.after(() => device.close());
    return device;
  }

  /** Runs a program of fixtures/ with the namespace as its first argument. */
  start(fixture: string, ...values: (string | number)[]): Program {
    const path = fileURLToPath(new URL(`fixtures/${fixture}.js`, import.meta.url));
    const program = new Program(fork(path, [this.namespace, ...values.map(String)]));
    this.#test.after(() => program.kill());
    return program;
  }

  /** What this test has in /dev/shm. */
  remains(): string[] {
    return readdirSync('/dev/shm').filter((name) => name.includes(this.namespace));
  }
}

/** A process of a test. */
export class Program {
  readonly #child: ChildProcess;
  readonly #exit: Promise<unknown[]>;
  /** Comes after the last message, which the exit may overtake. */
  readonly #disconnected: Promise<unknown>;

  constructor(child: ChildProcess) {
    this.#child = child;
    this.#exit = once(child, 'exit');
    this.#disconnected = once(child, 'disconnect');
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** The next message of the process. */
  async message<T>(): Promise<T> {
    const ended = Promise.all([this.#exit, this.#disconnected]).then(([[code, signal]]) =>
      assert.fail(`the process ended with ${code ?? signal}`),
    );
    const received = once(this.#child, 'message', { signal: AbortSignal.timeout(patience) });
    const [message] = await Promise.race([received, ended]);
    return message as T;
  }

  send(message: string | object): void {
    this.#child.send(message);
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Waits for the end of the process: its exit code, or null if a signal ended it. */
  async ended(): Promise<number | null> {
    const [code] = await this.#exit;
    return code as number | null;
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill('SIGKILL');
    await this.#exit;
  }
}
