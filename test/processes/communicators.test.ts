import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ShmCollective } from '../../src/native-bridge/collective.ts';
import { HostDevice } from '../../src/native-bridge/host-device.ts';
import { NcclCollective } from '../../src/native-bridge/nccl-collective.ts';
import { collectivePreference } from '../../src/processes/communicators.ts';
import { loadFakeNccl } from '../native/fake-nccl.ts';
import { sharedMemoryName } from '../shared-memory-name.ts';
import { cudaRanks, directoryOf, openAll, rankOn, ranks } from './communicator-ranks.ts';

loadFakeNccl();

for (const { where, order, preference, Kind } of [
  {
    where: 'of their own',
    order: { hosts: 1, sharesDevices: false },
    preference: null,
    Kind: NcclCollective,
  },
  { where: 'of two hosts', order: { hosts: 2, sharesDevices: true }, preference: null, Kind: NcclCollective },
  {
    where: 'that they share',
    order: { hosts: 1, sharesDevices: true },
    preference: null,
    Kind: ShmCollective,
  },
  {
    where: 'that they share',
    order: { hosts: 1, sharesDevices: true },
    preference: 'nccl',
    Kind: NcclCollective,
  },
  {
    where: 'of their own',
    order: { hosts: 1, sharesDevices: false },
    preference: 'copies',
    Kind: ShmCollective,
  },
  {
    where: 'of two hosts',
    order: { hosts: 2, sharesDevices: false },
    preference: 'copies',
    Kind: NcclCollective,
  },
] as const) {
  const suffix = preference === null ? '' : ` where ${preference} is preferred`;
  test(`ranks on CUDA devices ${where} are joined by a ${Kind.name}${suffix}`, async (t) => {
    const all = cudaRanks(t, preference);
    const { id } = all[0]!.communicators.create({ number: 7, ...order });
    for (const collective of await openAll(t, all, id)) assert(collective instanceof Kind);
    assert.deepEqual(all[0]!.warnings, []);
  });
}

test('NCCL among ranks that share a device gets large buckets and buffers, unless the user chose others', async (t) => {
  const open = async (sharesDevices: boolean) => {
    const all = cudaRanks(t, 'nccl');
    const { id, leastBucketBytes } = all[0]!.communicators.create({ number: 7, hosts: 1, sharesDevices });
    await openAll(t, all, id);
    return [leastBucketBytes, process.env.NCCL_BUFFSIZE];
  };
  const before = process.env.NCCL_BUFFSIZE;
  t.after(() => {
    if (before === undefined) delete process.env.NCCL_BUFFSIZE;
    else process.env.NCCL_BUFFSIZE = before;
  });
  delete process.env.NCCL_BUFFSIZE;
  assert.deepEqual(await open(false), [0, undefined]);
  assert.deepEqual(await open(true), [512 << 20, String(16 << 20)]);
  process.env.NCCL_BUFFSIZE = '1048576';
  assert.deepEqual(await open(true), [512 << 20, '1048576']);
});

test('an unknown collective in WEIGHTCAST_COLLECTIVE is refused', () => {
  assert.equal(collectivePreference(undefined), null);
  assert.throws(() => collectivePreference('gloo'), {
    name: 'UsageError',
    message: 'WEIGHTCAST_COLLECTIVE must be "nccl" or "copies", not "gloo"',
  });
});

test('ranks on host devices are joined through shared memory', async (t) => {
  const directory = directoryOf(t);
  const all = ranks.map((rank) => {
    const namespace = sharedMemoryName();
    const device = HostDevice.open({ namespace, index: rank, capacity: 1 << 20, uploadThreads: 1 });
    return rankOn(t, device, directory, rank);
  });
  const { id } = all[0]!.communicators.create({ number: 7, hosts: 1, sharesDevices: false });
  for (const collective of await openAll(t, all, id)) assert(collective instanceof ShmCollective);
  assert.deepEqual(all[0]!.warnings, []);
});

test('a rank refuses a communicator of an unknown kind', async (t) => {
  const [rank] = cudaRanks(t);
  await assert.rejects(rank!.communicators.open({ number: 7, id: Uint8Array.of(9) }, ranks), {
    name: 'ProtocolError',
    message: /rank 3 on device GPU-.* cannot open a communicator of kind 9/,
  });
});
