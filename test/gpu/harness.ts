import { randomBytes } from 'node:crypto';
import type { TestContext } from 'node:test';
import { describe } from '../../src/errors.ts';
import { CudaDevice } from '../../src/native-bridge/cuda-device.ts';
import { Mapping } from '../../src/native-bridge/memory.ts';
import { probeCuda } from '../../src/native-bridge/probe.ts';
import { sharedMemoryName } from '../shared-memory-name.ts';

/** Why the tests of this folder cannot run here, or false. */
export const skip: string | false = (() => {
  try {
    probeCuda();
    return false;
  } catch (error) {
    return describe(error);
  }
})();

export const mebibyte = 1 << 20;

/** The device and the segments of one test. */
export class GpuTest {
  readonly device: CudaDevice;
  readonly #test: TestContext;

  constructor(test: TestContext) {
    this.#test = test;
    this.device = CudaDevice.open({ index: 0, pinThreads: 2 });
    test.after(() => this.device.close());
  }

  /** A segment full of random bytes, of which large ones repeat those of a mebibyte and so differ in their places. */
  segment(bytes: number): Mapping {
    const path = `/dev/shm/${sharedMemoryName()}`;
    const segment = Mapping.create(path, bytes);
    this.#test.after(() => segment.unlink());
    const content = randomBytes(Math.min(bytes, mebibyte + 8));
    for (let at = 0; at < bytes; at += content.length) {
      content.writeUInt8((content[0]! + 1) & 255, 0);
      segment.write(at, content.subarray(0, Math.min(content.length, bytes - at)));
    }
    return segment;
  }
}

/** A run of bytes, as an upload takes it. */
export function run(from: number, to: number, bytes: number): number[] {
  return [from, to, bytes, 1, bytes, bytes];
}
