import { describe } from '../../src/errors.ts';
import { probeNccl } from '../../src/native-bridge/nccl-collective.ts';
import { probeCuda } from '../../src/native-bridge/probe.ts';
import { testCollective } from './collective-suite.ts';
import { mebibyte, skip } from './harness.ts';

/** Why NCCL cannot be tried here at all, and why not by ranks that share a GPU; or false. */
const [skipNccl, skipShared] = ((): readonly [string | false, string | false] => {
  try {
    const { version, allowsSharedDevices } = probeNccl();
    return [false, allowsSharedDevices ? false : `NCCL ${version} refuses several ranks on one GPU`];
  } catch (error) {
    return [describe(error), false];
  }
})();

/** Why ranks cannot be on two GPUs, or false. */
const skipTwo: string | false =
  skip || (probeCuda().devices.length > 1 ? false : 'there is only one GPU in this machine');

const options = { bytes: 40 * mebibyte, environment: {} };
testCollective({ ...options, kind: 'nccl', devices: 1, skip: skip || skipNccl, skipShared });
testCollective({ ...options, kind: 'shm', devices: 1, skip });
testCollective({ ...options, kind: 'nccl', devices: 2, skip: skipTwo || skipNccl, skipShared });
testCollective({ ...options, kind: 'shm', devices: 2, skip: skipTwo });
