import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  type ReferenceEngineOptions,
  type RunningEngine,
  startReferenceEngine,
} from '../../scenarios/reference-engine/index.ts';
import { describeTensors } from '../../scenarios/reference-engine/model-tensors.ts';
import { type CheckpointIndex, openCheckpoint } from '../../src/checkpoint/source.ts';
import {
  MessagePackWorkerLink,
  type MessagePackWorkerLinkOptions,
} from '../../src/engines/worker-link/rank-side.ts';
import type { ArrivedDigests, LinkTensor } from '../../src/engines/worker-link/worker-link.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { HostDevice } from '../../src/native-bridge/host-device.ts';
import { Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { type Scope, temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { patience } from '../patience.ts';
import { SeededRandom } from '../plan/seeded-random.ts';
import { sharedMemoryName } from '../shared-memory-name.ts';
import { writeRandomModel } from './random-model.ts';

export const deviceCapacity = 4 * 2 ** 20;

export interface Answer {
  readonly status: number;
  /** Parsed; the text itself if it is not JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into bodies of any form.
  readonly body: any;
}

/** A real engine for one test, or all of a file, over a small model with one layer of each kind. */
export class TestEngine {
  readonly running: RunningEngine;
  readonly namespace: string;
  readonly directory: string;

  private constructor(running: RunningEngine, namespace: string, directory: string) {
    this.running = running;
    this.namespace = namespace;
    this.directory = directory;
  }

  static async start(test: Scope, options: Partial<ReferenceEngineOptions> = {}): Promise<TestEngine> {
    const namespace = sharedMemoryName();
    const directory = temporaryDirectory(test);
    const model = writeModel(directory, 0);
    const running = await startReferenceEngine({
      name: 'tiny',
      model,
      ranks: 2,
      deviceNamespace: namespace,
      deviceCapacity,
      ...options,
    });
    test.after(async () => {
      await running.stop();
      assert.deepEqual(remains(namespace), [], 'nothing is left in /dev/shm');
    });
    return new TestEngine(running, namespace, directory);
  }

  /** A model of the engine's shapes with other weights. */
  makeModel(seed: number): string {
    return writeModel(this.directory, seed);
  }

  async get(path: string): Promise<Answer> {
    return this.#exchange(path, { method: 'GET' });
  }

  async post(path: string, body?: unknown): Promise<Answer> {
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    return this.#exchange(path, { method: 'POST', ...(text !== undefined && { body: text }) });
  }

  rpc(method: string, args: readonly unknown[] = [], timeout: number | null = 60): Promise<Answer> {
    return this.post('/collective_rpc', { method, args, timeout });
  }

  /** The text that follows a prompt, and the version that answered. */
  async complete(prompt: string, length = 4): Promise<{ text: string; version: string }> {
    const { status, body } = await this.post('/v1/completions', { prompt, max_tokens: length });
    assert.equal(status, 200, JSON.stringify(body));
    return { text: body.choices[0].text, version: body.system_fingerprint };
  }

  /** Does what the ranks of a cluster do in an update to this checkpoint. */
  async update(
    path: string,
    { version = 'v@1', epoch = 1, callSeconds = 60 } = {},
  ): Promise<{ answer: Promise<Answer>; sent: Promise<Sent[]> }> {
    const index = await openCheckpoint(path);
    const uuids = this.running.deviceUuids;
    const senders = await Promise.all(
      uuids.map((deviceUuid, rank) => {
        const link = { deviceUuid, version, epoch, timeoutMilliseconds: patience };
        return Sender.bind(this.namespace, rank, link);
      }),
    );
    const links = Object.fromEntries(senders.map(({ address }, rank) => [uuids[rank], address]));
    const answer = this.rpc('update_weights_from_weightcast', [links], callSeconds);
    const sent = Promise.all(senders.map((sender) => sender.send(path, index)));
    return { answer, sent };
  }

  /** As {@link update}; fails unless it succeeds. */
  async install(path: string, version: string, epoch = 1): Promise<ArrivedDigests[]> {
    const { answer, sent } = await this.update(path, { version, epoch });
    const reports = (await sent).map(({ report, error }) => report ?? assert.fail(error!));
    assert.deepEqual(await answer, { status: 200, body: { results: reports.map(() => null) } });
    return reports;
  }

  async #exchange(path: string, init: RequestInit): Promise<Answer> {
    const signal = AbortSignal.timeout(patience);
    const response = await fetch(`${this.running.endpoint}${path}`, { ...init, signal });
    const text = await response.text();
    try {
      return { status: response.status, body: JSON.parse(text) };
    } catch {
      return { status: response.status, body: text };
    }
  }
}

/** What a worker said it installed, or why the exchange with it ended. */
export type Sent =
  | { readonly report: ArrivedDigests; readonly error: null }
  | { readonly report: null; readonly error: Error };

/** One rank's part in an update: a buffer on the device that it shares with the worker, and the worker link. */
class Sender {
  readonly #device: HostDevice;
  readonly #link: MessagePackWorkerLink;

  private constructor(device: HostDevice, link: MessagePackWorkerLink) {
    this.#device = device;
    this.#link = link;
  }

  static async bind(
    namespace: string,
    rank: number,
    link: Omit<MessagePackWorkerLinkOptions, 'clock'>,
  ): Promise<Sender> {
    const device = HostDevice.open({ namespace, index: rank, capacity: 0, uploadThreads: 1 });
    return new Sender(device, await MessagePackWorkerLink.bind({ ...link, clock: systemClock }));
  }

  get address(): string {
    return this.#link.address;
  }

  async send(path: string, index: CheckpointIndex): Promise<Sent> {
    const { rectangles, tensors, bytes } = layOut(index);
    const buffer = this.#device.allocate(bytes);
    const file = Mapping.open(path, false);
    const pool = new ThreadPool(1);
    try {
      await pool.copy(file, buffer.mapping, rectangles);
      await this.#link.open({ handle: buffer.ipcHandle, bytes });
      const half = Math.ceil(tensors.length / 2);
      await this.#link.load(tensors.slice(0, half));
      await this.#link.load(tensors.slice(half));
      await this.#link.release();
      buffer.free();
      return { report: (await this.#link.finish())!, error: null };
    } catch (error) {
      await this.#link.abort(`it failed: ${(error as Error).message}`);
      return { report: null, error: error as Error };
    } finally {
      buffer.free();
      file.close();
      pool.close();
      this.#link.close();
      this.#device.close();
    }
  }
}

/** All tensors of a checkpoint one after the other, aligned as the worker link wants them. */
function layOut(index: CheckpointIndex) {
  const rectangles: number[] = [];
  let bytes = 0;
  const tensors: LinkTensor[] = describeTensors(index).map((tensor, row) => {
    const size = index.bytes[row]!;
    const offset = bytes;
    if (size > 0) rectangles.push(index.offsets[row]!, offset, size, 1, size, size);
    bytes += Math.ceil(size / 256) * 256;
    return { ...tensor, offset };
  });
  return { rectangles: Float64Array.from(rectangles), tensors, bytes };
}

function writeModel(directory: string, seed: number): string {
  const path = join(directory, `model-${seed}.safetensors`);
  writeRandomModel(path, new SeededRandom(seed));
  return path;
}

/** What a test's devices have in /dev/shm. */
export function remains(namespace: string): string[] {
  return readdirSync('/dev/shm').filter((name) => name.includes(namespace));
}
