import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { CudaDevice, type CudaDeviceBuffer } from '../../src/native-bridge/cuda-device.ts';
import { Mapping } from '../../src/native-bridge/memory.ts';
import { type FakeCuda, loadFakeCuda } from './fake-cuda.ts';
import { TestHost } from './harness.ts';

/** One for the process; in place before a device is first asked for. */
export const fake: FakeCuda = loadFakeCuda();

export const mebibyte = 1 << 20;

/** Devices and segments of one test, on the fake driver, which is sound again when the test is over. */
export class CudaTest {
  readonly host: TestHost;
  readonly #test: TestContext;
  #segments = 0;

  constructor(test: TestContext) {
    this.#test = test;
    this.host = new TestHost(test);
    fake.takeUploads();
    test.after(() => {
      fake.poison(0);
      fake.set('held', 0);
      fake.set('copyMilliseconds', 0);
    });
  }

  device(options: { index?: number; stallMilliseconds?: number } = {}): CudaDevice {
    const device = CudaDevice.open({ index: 0, pinThreads: 2, ...options });
    this.#test.after(async () => {
      device.close();
      // The next test counts what is pinned.
      await settled(() => assert.equal(device.pinnedBytes, 0));
    });
    return device;
  }

  segment(content: Uint8Array): Mapping {
    this.#segments += 1;
    const path = `/dev/shm/${this.host.namespace}-segment-${this.#segments}`;
    const segment = Mapping.create(path, content.length);
    this.#test.after(() => segment.unlink());
    segment.write(0, content);
    return segment;
  }
}

/** A run of bytes, as an upload takes it. */
export function run(from: number, to: number, bytes: number): number[] {
  return [from, to, bytes, 1, bytes, bytes];
}

/** Waits until the check holds: nobody waits for memory to be unpinned. */
export async function settled(check: () => void): Promise<void> {
  const deadline = Date.now() + 10_000;
  for (;;) {
    try {
      return check();
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

export function pinned(bytes: number): Promise<void> {
  return settled(() => assert.equal(fake.census().pinnedBytes, bytes));
}

export async function contentOf(
  device: CudaDevice,
  buffer: CudaDeviceBuffer,
  bytes = buffer.bytes,
): Promise<string> {
  return (await device.read(buffer, 0, bytes)).toString('latin1');
}
