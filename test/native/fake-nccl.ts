import { spawnSync } from 'node:child_process';
import { mkdirSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type FakeCuda, loadFakeCuda } from './fake-cuda.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const source = join(root, 'test/native/fixtures/fake-nccl/nccl.cc');

/** What the fake NCCL does wrong from now on; the list stands on top of nccl.cc. */
export function setNcclFault(fault: string): void {
  process.env.FAKE_NCCL_FAULT = fault;
}

/** Makes a fake driver and a fake NCCL on top of it those that this process finds. */
export function loadFakeNccl(): FakeCuda {
  const cuda = loadFakeCuda();
  process.env.WEIGHTCAST_NCCL = buildFakeNccl();
  return cuda;
}

/** Builds the library if need be. */
export function buildFakeNccl(): string {
  const folder = join(root, 'build/fake-nccl');
  const library = join(folder, 'libnccl.so.2');
  const built = statSync(library, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  if (built > statSync(source).mtimeMs) return library;
  mkdirSync(folder, { recursive: true });
  // Test files are run at the same time.
  const draft = `${library}.${process.pid}`;
  const options = [
    '-shared',
    '-fPIC',
    '-std=c++17',
    '-O1',
    '-g1',
    '-pthread',
    '-fvisibility=hidden',
    '-Wall',
    '-Wextra',
  ];
  const { status, stderr } = spawnSync('g++', [...options, '-o', draft, source, '-ldl']);
  if (status !== 0) throw new Error(`the fake NCCL does not build: ${stderr}`);
  renameSync(draft, library);
  return library;
}
