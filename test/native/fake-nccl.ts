import { join } from 'node:path';
import { type FakeCuda, loadFakeCuda } from './fake-cuda.ts';
import { buildFakeLibrary, root } from './fake-library.ts';

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
  const sources = [join(root, 'test/native/fixtures/fake-nccl/nccl.cc')];
  return buildFakeLibrary({ name: 'libnccl.so.2', sources });
}
