import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { buildFakeLibrary, root } from './fake-library.ts';

/** A CUDA driver that is none (fixtures/fake-cuda), and what makes it fail. */
export interface FakeCuda {
  /**
   * The call of that name that comes after `after` good ones returns `result`; if `sticky` is 1 so does every later
   * call of any name.
   */
  failNext(name: string, result: number, after: number, sticky: 0 | 1): void;
  /** As if work on the GPU had failed so that every later call does; 0 heals. */
  poison(result: number): void;
  set(name: 'held' | 'copyMilliseconds' | 'capacity' | 'readOnlyRegister', value: number): void;
  calls(name: string): number;
  /** Bytes of a row and rows of each copy to the device since the last call, in the order they ran. */
  takeUploads(): number[];
  census(): FakeCensus;
}

export interface FakeCensus {
  readonly contexts: number;
  readonly streams: number;
  readonly events: number;
  readonly modules: number;
  readonly hostBuffers: number;
  readonly allocations: number;
  readonly pinnedBytes: number;
}

const folder = join(root, 'test/native/fixtures/fake-cuda');

/** Builds the driver if need be, and returns the folder it is in, for LD_LIBRARY_PATH. */
export function buildFakeCuda(): string {
  const files = readdirSync(folder).map((name) => join(folder, name));
  const sources = files.filter((path) => path.endsWith('.cc'));
  const library = buildFakeLibrary({
    name: 'libcuda.so.1',
    sources,
    headers: [...files, join(root, 'native/device/cuda/driver.h')],
    options: ['-I', nodeHeaders(), '-I', join(root, 'native')],
  });
  return dirname(library);
}

/** Makes the fake driver the one that this process finds. To be called before a device is first asked for. */
export function loadFakeCuda(): FakeCuda {
  const holder = { exports: {} };
  process.dlopen(holder, join(buildFakeCuda(), 'libcuda.so.1'));
  return holder.exports as FakeCuda;
}

/** The headers that the addon was built with. */
function nodeHeaders(): string {
  const configuration = readFileSync(join(root, 'build/config.gypi'), 'utf8');
  const found = /"nodedir": "([^"]+)"/.exec(configuration);
  if (found === null) throw new Error('build/config.gypi names no nodedir; build the addon first');
  return join(found[1]!, 'include/node');
}
