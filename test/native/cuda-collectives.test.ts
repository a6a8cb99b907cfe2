import { testCollective } from '../gpu/collective-suite.ts';
import { buildFakeCuda } from './fake-cuda.ts';
import { buildFakeNccl } from './fake-nccl.ts';

/** The tests of the GPU machine, on a driver and a NCCL that are none. */
const environment = { LD_LIBRARY_PATH: buildFakeCuda(), WEIGHTCAST_NCCL: buildFakeNccl() };
testCollective({ kind: 'nccl', bytes: 1 << 20, devices: 2, environment, skip: false });
testCollective({ kind: 'shm', bytes: 1 << 20, devices: 2, environment, skip: false });
