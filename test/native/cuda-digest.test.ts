import assert from 'node:assert/strict';
import { createHash, randomBytes, randomInt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { digestPart } from '../../src/native-bridge/digest-parts.ts';
import { ThreadPool } from '../../src/native-bridge/memory.ts';
import { packageRoot } from '../../src/package-root.ts';
import { CudaTest, fake, run } from './cuda-harness.ts';

const kernels = new URL('native/device/cuda/kernels/', packageRoot);

test('the kernel that addon and Python package carry was compiled from its source', () => {
  const source = readFileSync(new URL('digest.cu', kernels));
  const digest = createHash('sha256').update(source).digest('hex');
  const carried = readFileSync(new URL('digest_ptx.h', kernels), 'utf8');
  assert(carried.includes(`SHA-256 of digest.cu: ${digest}`), 'run native/device/cuda/kernels/build.sh');
  const [, text] = /R"ptx\(([\s\S]*?)\)ptx"/.exec(carried)!;
  assert.equal(readFileSync(new URL('python/weightcast/digest.ptx', packageRoot), 'utf8'), text);
  // What later drivers than these bring would shut out the users of earlier ones.
  assert.match(carried, /\.version 6\.3\n\.target sm_70\n/);
});

test('the GPU digests parts of tensors as the host does', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const pool = new ThreadPool(1);
  t.after(() => pool.close());
  const bytes = 300_000;
  const segment = cuda.segment(randomBytes(bytes));
  const buffer = device.allocate(bytes);
  await device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, bytes)) }], buffer);
  for (let round = 0; round < 20; round += 1) {
    const parts = Float64Array.from(Array.from({ length: 8 }, () => randomPart(bytes)).flat());
    assert.deepEqual(await device.digest(buffer, parts), await pool.digest(segment, parts));
  }
});

/** A rectangle somewhere in the memory, of a tensor somewhat larger than it; sometimes nothing. */
function randomPart(bytes: number): number[] {
  const rows = randomInt(1, 40);
  const pitch = randomInt(1, 3000);
  const rowBytes = randomInt(0, 10) === 0 ? 0 : randomInt(1, pitch + 1);
  const tensorPitch = rowBytes + randomInt(0, 100);
  const tensorOffset = randomInt(0, 100);
  const end = tensorOffset + (rows - 1) * tensorPitch + rowBytes;
  return digestPart({
    offset: randomInt(0, bytes - rows * pitch),
    rowBytes,
    rows,
    pitch,
    tensorOffset,
    tensorPitch,
    tensorBytes: end + (randomInt(0, 2) === 0 ? 0 : randomInt(1, 50)),
  });
}

test('more parts than one launch takes are digested in several', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const pool = new ThreadPool(1);
  t.after(() => pool.close());
  const count = 20_000;
  const segment = cuda.segment(randomBytes(count));
  const buffer = device.allocate(count);
  await device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, count)) }], buffer);
  const parts = Float64Array.from(
    Array.from({ length: count }, (_, index) =>
      digestPart({
        ...{ offset: index, rowBytes: 1, rows: 1, pitch: 1 },
        ...{ tensorOffset: 0, tensorPitch: 1, tensorBytes: 1 },
      }),
    ).flat(),
  );
  const launches = fake.calls('cuLaunchKernel');
  assert.deepEqual(await device.digest(buffer, parts), await pool.digest(segment, parts));
  assert.equal(fake.calls('cuLaunchKernel') - launches, 3);
});

test('no parts have no digests, and a tensor of no bytes has digest 0', async (t) => {
  const device = new CudaTest(t).device();
  const buffer = device.allocate(1);
  assert.deepEqual(await device.digest(buffer, new Float64Array()), new BigUint64Array());
  assert.deepEqual(await device.digest(buffer, Float64Array.of(0, 0, 1, 0, 0, 0, 0)), new BigUint64Array(1));
});

test('parts outside the buffer or their tensor are refused', async (t) => {
  const device = new CudaTest(t).device();
  const buffer = device.allocate(100);
  await assert.rejects(
    device.digest(buffer, Float64Array.of(50, 51, 1, 51, 0, 51, 51)),
    /the place in memory of rectangle 0 .* lies outside 100 bytes/,
  );
  await assert.rejects(
    device.digest(buffer, Float64Array.of(0, 51, 1, 51, 0, 51, 50)),
    /the place in the tensor of rectangle 0 .* lies outside 50 bytes/,
  );
});

test('a digest whose kernel cannot be loaded says so, and the next one tries again', async (t) => {
  const device = new CudaTest(t).device();
  const buffer = device.allocate(1);
  const parts = Float64Array.of(0, 1, 1, 1, 0, 1, 1);
  fake.failNext('cuModuleLoadData', 1, 0, 0);
  await assert.rejects(device.digest(buffer, parts), {
    name: 'NativeError',
    message:
      /^cannot load the digest kernel on device GPU-.*: invalid argument \(CUDA_ERROR_INVALID_VALUE\)$/,
  });
  await device.digest(buffer, parts);
});
