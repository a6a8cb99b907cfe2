import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

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

const root = fileURLToPath(new URL('../..', import.meta.url));
const sources = join(root, 'test/native/fixtures/fake-cuda');

/** Builds the driver if need be, and returns the folder it is in, for LD_LIBRARY_PATH. */
export function buildFakeCuda(): string {
  const folder = join(root, 'build/fake-cuda');
  const library = join(folder, 'libcuda.so.1');
  const inputs = [
    ...readdirSync(sources).map((name) => join(sources, name)),
    join(root, 'native/device/cuda/driver.h'),
  ];
  const newest = Math.max(...inputs.map((path) => statSync(path).mtimeMs));
  const built = statSync(library, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  if (built > newest) return folder;
  mkdirSync(folder, { recursive: true });
  const draft = `${library}.${process.pid}`;
  const { status, stderr } = spawnSync('g++', [
    ...[
      '-shared',
      '-fPIC',
      '-std=c++17',
      '-O1',
      '-g1',
      '-pthread',
      '-fvisibility=hidden',
      '-Wall',
      '-Wextra',
    ],
    ...['-Wl,-soname,libcuda.so.1', '-I', nodeHeaders(), '-I', join(root, 'native'), '-o', draft],
    ...inputs.filter((path) => path.endsWith('.cc')),
  ]);
  if (status !== 0) throw new Error(`the fake CUDA driver does not build: ${stderr}`);
  renameSync(draft, library);
  return folder;
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
