import { setTimeout as sleep } from 'node:timers/promises';
import type { LinkTensor, LiveDigests } from '../../src/engines/worker-link/worker-link.ts';
import type { OpenedBuffer, PartsRecord, WeightReceiver } from '../../src/engines/worker-link/worker-side.ts';
import { EngineError } from '../../src/errors.ts';
import type { Faults } from './configuration.ts';
import type { WeightsInstaller } from './weights-installer.ts';
import type { WorkerParameters } from './worker-parameters.ts';

/** Longer than the timeouts of updates in tests. */
const hangMilliseconds = 3_000;

/** Forwards an update to another handler, with injected failures. */
export class FaultyHandler implements WeightReceiver {
  readonly #handler: WeightsInstaller;
  readonly #faults: Faults;
  readonly #parameters: WorkerParameters;
  #buckets = 0;
  #isDamaged = false;

  constructor(handler: WeightsInstaller, faults: Faults, parameters: WorkerParameters) {
    this.#handler = handler;
    this.#faults = faults;
    this.#parameters = parameters;
  }

  get record(): PartsRecord | undefined {
    return this.#handler.record;
  }

  open(buffer: OpenedBuffer): void | Promise<void> {
    return this.#handler.open(buffer);
  }

  async load(tensors: readonly LinkTensor[]): Promise<void> {
    const { exitAtBucket, hangAtBucket, failLoadOfTensor, damagesPartOf } = this.#faults;
    const bucket = this.#buckets;
    this.#buckets += 1;
    if (bucket === exitAtBucket) process.kill(process.pid, 'SIGKILL');
    if (bucket === hangAtBucket) {
      await sleep(hangMilliseconds);
      throw new EngineError(`bucket ${bucket} was left unanswered on purpose`);
    }
    const refused = tensors.find(({ name }) => name === failLoadOfTensor);
    if (refused !== undefined) throw new EngineError(`tensor ${refused.name} is refused on purpose`);
    await this.#handler.load(tensors);
    this.#isDamaged ||= tensors.some(({ name, part }) => name === damagesPartOf && part !== undefined);
  }

  release(): void | Promise<void> {
    return this.#handler.release();
  }

  finish(): ReturnType<WeightReceiver['finish']> {
    if (this.#isDamaged) this.#parameters.spoil(this.#faults.damagesPartOf!);
    return this.#handler.finish();
  }

  live(): Promise<LiveDigests> {
    if (this.#faults.misloadsTensor !== undefined) this.#parameters.spoil(this.#faults.misloadsTensor);
    return this.#handler.live();
  }
}
