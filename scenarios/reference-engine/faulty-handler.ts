import { setTimeout as sleep } from 'node:timers/promises';
import type { LinkTensor } from '../../src/engines/worker-link/worker-link.ts';
import type { OpenedBuffer, WeightReceiver } from '../../src/engines/worker-link/worker-side.ts';
import { EngineError } from '../../src/errors.ts';
import type { Faults } from './configuration.ts';

const lookEveryMilliseconds = 50;

/** Passes on what an update brings, and fails on purpose where it is told to. */
export class FaultyHandler implements WeightReceiver {
  readonly #handler: WeightReceiver;
  readonly #faults: Faults;
  readonly #freeMemory: () => number;
  #freeAtOpen = 0;
  #buckets = 0;

  /** `freeMemory` tells the bytes that are free on the device, by which it sees that the rank has let go. */
  constructor(handler: WeightReceiver, faults: Faults, freeMemory: () => number) {
    this.#handler = handler;
    this.#faults = faults;
    this.#freeMemory = freeMemory;
  }

  open(buffer: OpenedBuffer): void | Promise<void> {
    this.#freeAtOpen = this.#freeMemory();
    return this.#handler.open(buffer);
  }

  async load(tensors: readonly LinkTensor[]): Promise<void> {
    const { exitAtBucket, hangAtBucket, failLoadOfTensor } = this.#faults;
    const bucket = this.#buckets;
    this.#buckets += 1;
    if (bucket === exitAtBucket) process.kill(process.pid, 'SIGKILL');
    if (bucket === hangAtBucket) await this.#hang(bucket);
    const refused = tensors.find(({ name }) => name === failLoadOfTensor);
    if (refused !== undefined) throw new EngineError(`tensor ${refused.name} is refused on purpose`);
    await this.#handler.load(tensors);
  }

  release(): void | Promise<void> {
    return this.#handler.release();
  }

  finish(): ReturnType<WeightReceiver['finish']> {
    return this.#handler.finish();
  }

  async #hang(bucket: number): Promise<never> {
    while (this.#freeMemory() <= this.#freeAtOpen) await sleep(lookEveryMilliseconds);
    throw new EngineError(`bucket ${bucket} was left unanswered on purpose`);
  }
}
