import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ShmCollective } from '../../src/native-bridge/collective.ts';
import { loadFakeNccl } from '../native/fake-nccl.ts';
import { cudaRanks, openAll, type Rank } from './communicator-ranks.ts';

loadFakeNccl();
const library = process.env.WEIGHTCAST_NCCL!;
const [one, two] = [1, 2].map((hosts) => ({ number: 7, hosts, sharesDevices: false }));

// In this order: a library that is found is kept.

test('without NCCL, ranks of one host copy from each other, and a warning says why', async (t) => {
  process.env.WEIGHTCAST_NCCL = '/nowhere/libnccl.so.2';
  const all = cudaRanks(t);
  const [{ communicators, warnings }] = all as [Rank, Rank];
  for (const collective of await openAll(t, all, communicators.create(one!).id)) {
    assert(collective instanceof ShmCollective);
  }
  assert.equal(warnings.length, 1);
  assert.match(warnings[0]!, /ranks copy from each other.*cannot load NCCL/);
});

test('where NCCL is required or preferred, the error says why it cannot be used', (t) => {
  const [{ communicators }] = cudaRanks(t) as [Rank];
  assert.throws(() => communicators.create(two!), {
    name: 'NativeError',
    message: /^ranks on 2 hosts need NCCL: cannot load NCCL/,
  });
  const [{ communicators: preferring }] = cudaRanks(t, 'nccl') as [Rank];
  assert.throws(() => preferring.create(one!), {
    name: 'NativeError',
    message: /^NCCL cannot connect the ranks: cannot load NCCL/,
  });
});

test('an NCCL before 2.30.7 cannot join ranks that share a device', (t) => {
  process.env.WEIGHTCAST_NCCL = library;
  process.env.FAKE_NCCL_VERSION = '22100';
  const [{ communicators }] = cudaRanks(t, 'nccl') as [Rank];
  assert.throws(() => communicators.create({ ...one!, sharesDevices: true }), {
    name: 'NativeError',
    message: /NCCL 2\.21\.0 refuses several ranks on one GPU; 2\.30\.7 or newer allows them/,
  });
});
