import { strict as assert } from 'node:assert';
import type { ArrivedDigests, LinkTensor, LiveDigests } from '../../src/engines/worker-link/worker-link.ts';
import type { OpenedBuffer, WeightReceiver } from '../../src/engines/worker-link/worker-side.ts';
import { openDeviceMemory } from '../../src/native-bridge/host-device.ts';
import type { Mapping } from '../../src/native-bridge/memory.ts';
import type { WorkerParameters } from './worker-parameters.ts';

/** One update of a worker's parameters. */
export class WeightsInstaller implements WeightReceiver {
  readonly #parameters: WorkerParameters;
  readonly #place: LiveDigests['place'];
  readonly #names: string[] = [];
  #report = true;
  #link: Mapping | null = null;

  constructor(parameters: WorkerParameters, place: LiveDigests['place']) {
    this.#parameters = parameters;
    this.#place = place;
  }

  open({ handle, report }: OpenedBuffer): void {
    this.#report = report;
    this.#link = openDeviceMemory(handle);
  }

  async load(tensors: readonly LinkTensor[]): Promise<void> {
    assert(this.#link !== null, 'the link buffer is open');
    await this.#parameters.install(this.#link, tensors);
    for (const { name } of tensors) this.#names.push(name);
  }

  release(): void {
    this.#link?.close();
    this.#link = null;
  }

  async finish(): Promise<ArrivedDigests | null> {
    return this.#report ? this.#parameters.digest(this.#names) : null;
  }

  live(): Promise<LiveDigests> {
    return this.#parameters.live(this.#place);
  }
}
