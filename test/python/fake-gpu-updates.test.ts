import { join } from 'node:path';
import { testUpdates } from '../gpu/update-suite.ts';
import { buildFakeCuda, loadFakeCuda } from '../native/fake-cuda.ts';
import { original, skip, skipOriginal } from './exchanges.ts';

/** The tests of the GPU machine, on a driver that is none: this process's by being loaded, its children's by name. */
loadFakeCuda();
const folder = buildFakeCuda();
process.env.LD_LIBRARY_PATH = folder;

testUpdates({
  device: 'fake-cuda',
  skip,
  original,
  skipOriginal,
  faultLibrary: () => join(folder, 'libcuda.so.1'),
});
