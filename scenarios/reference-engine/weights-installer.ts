import { strict as assert } from 'node:assert';
import { randomUUID } from 'node:crypto';
import type {
  ArrivedDigests,
  KeptParts,
  LinkTensor,
  LiveDigests,
} from '../../src/engines/worker-link/worker-link.ts';
import type { OpenedBuffer, PartsRecord, WeightReceiver } from '../../src/engines/worker-link/worker-side.ts';
import { openDeviceMemory } from '../../src/native-bridge/host-device.ts';
import type { Mapping } from '../../src/native-bridge/memory.ts';
import type { WorkerParameters } from './worker-parameters.ts';

/** What a worker has said that it keeps; gone with its process. */
export class Recorded {
  token: string | null = null;
}

/** One update of a worker's parameters. */
export class WeightsInstaller implements WeightReceiver {
  readonly #parameters: WorkerParameters;
  readonly #place: LiveDigests['place'];
  readonly #names: string[] = [];
  #report = true;
  #link: Mapping | null = null;
  readonly record?: PartsRecord;

  /** `recorded`: null for a worker that takes whole tensors only. */
  constructor(parameters: WorkerParameters, place: LiveDigests['place'], recorded: Recorded | null) {
    this.#parameters = parameters;
    this.#place = place;
    if (recorded !== null) this.record = { token: recorded.token, kept: () => this.#kept(recorded) };
  }

  #kept(recorded: Recorded): KeptParts {
    recorded.token ??= randomUUID();
    return { token: recorded.token, cuts: this.#parameters.cuts(this.#names) };
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
