import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HandedOver } from '../../../src/actors/rank/handed-over.ts';
import { NativeError, OutOfDeviceMemoryError } from '../../../src/errors.ts';
import type { Device, DeviceBuffer } from '../../../src/native-bridge/device.ts';
import { planUpdate } from '../../../src/plan/buckets.ts';
import { manifestOf, segmentOf } from '../../plan/manifests.ts';

const buffer = { bytes: 256 } as DeviceBuffer;
const place = { buffer, offset: 0 };

function handedOver(digest: Device['digest']) {
  const manifest = manifestOf([{ name: 'w', bytes: 64, segment: 0, offset: 0 }], [segmentOf(0, 'h')]);
  const ranks = [{ rank: 0, host: 'h', freeBytes: 2 ** 20 }];
  const plan = planUpdate({ manifest, ranks, fraction: 1, bucketBytes: 256 });
  return new HandedOver(plan, manifest, { digest } as Device);
}

test('a device that takes no digests, as a GPU older than their kernel, hands over what nobody has seen', async () => {
  let asked = 0;
  const why = 'cannot load the digest kernel on device GPU-1: no kernel image (CUDA_ERROR_NO_BINARY_FOR_GPU)';
  const handed = handedOver(() => {
    asked += 1;
    return Promise.reject(new NativeError(why));
  });
  await handed.prepare(buffer);
  assert.equal(handed.unable, why);
  await handed.digest(0, place);
  assert.equal(asked, 1, 'it is not asked again');
  assert.equal(handed.take(), null);
});

test('a device without memory for digests now is not one that takes none', async () => {
  const handed = handedOver(() => Promise.reject(new OutOfDeviceMemoryError('it is full')));
  await assert.rejects(handed.prepare(buffer), { name: 'OutOfDeviceMemoryError' });
});

test('a device that takes them has a digest of each tensor that was handed over', async () => {
  const handed = handedOver(async (_buffer, parts) => new BigUint64Array(parts.length / 7).fill(5n));
  await handed.prepare(buffer);
  await handed.digest(0, place);
  assert.equal(handed.unable, null);
  assert.deepEqual(handed.take()!.digests, BigUint64Array.of(5n));
});
