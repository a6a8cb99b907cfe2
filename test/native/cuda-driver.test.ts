import assert from 'node:assert/strict';
import { fork, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { buildFakeCuda } from './fake-cuda.ts';
import { Program } from './harness.ts';

const prober = fileURLToPath(new URL('fixtures/cuda-prober.js', import.meta.url));

function probe(environment: NodeJS.ProcessEnv): Promise<{ devices?: number; error?: string; name?: string }> {
  return new Program(fork(prober, { env: { ...process.env, ...environment } })).message();
}

function fakeDriver(settings: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { LD_LIBRARY_PATH: buildFakeCuda(), ...settings };
}

test('the driver is found as the dynamic linker finds libraries', async () => {
  assert.deepEqual(await probe(fakeDriver({})), { devices: 2 });
});

test('without a driver the message says what to do', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'weightcast-'));
  t.after(() => rmSync(folder, { recursive: true }));
  // Something that is no library, so that the test is the same on a machine that has a driver.
  writeFileSync(join(folder, 'libcuda.so.1'), 'no library');
  const { error, name } = await probe({ LD_LIBRARY_PATH: folder });
  assert.equal(name, 'NativeError');
  assert.match(
    error!,
    /^cannot load the NVIDIA driver \(.*libcuda\.so\.1.*\); install it, or give the container its GPUs \(docker run --gpus all\)$/,
  );
});

test('a driver that is too old is told by its version and what it lacks', async (t) => {
  const { error } = await probe(fakeDriver({ FAKE_CUDA_VERSION: '11030' }));
  assert.equal(
    error,
    'the NVIDIA driver supports CUDA 11.3; update it to one for CUDA 11.4 (driver 470) or newer',
  );
  const folder = mkdtempSync(join(tmpdir(), 'weightcast-'));
  t.after(() => rmSync(folder, { recursive: true }));
  // A library that has no function of the driver at all.
  const { stdout } = spawnSync('g++', ['-print-file-name=libm.so.6'], { encoding: 'utf8' });
  symlinkSync(stdout.trim(), join(folder, 'libcuda.so.1'));
  const lacking = await probe({ LD_LIBRARY_PATH: folder });
  assert.match(lacking.error!, /^the NVIDIA driver has no function cuDriverGetVersion; update it/);
});

test('a driver that sees no GPU or will not start says so', async () => {
  const noDevice = await probe(fakeDriver({ FAKE_CUDA_INIT: '100', CUDA_VISIBLE_DEVICES: '' }));
  assert.equal(
    noDevice.error,
    'the NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES is ""); check with nvidia-smi',
  );
  const mismatch = await probe(fakeDriver({ FAKE_CUDA_INIT: '803' }));
  assert.equal(
    mismatch.error,
    'cannot start the NVIDIA driver: system has unsupported display driver / cuda driver combination ' +
      '(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH); check with nvidia-smi',
  );
});

const headers = [process.env.CUDA_HOME, '/usr/local/cuda', '/usr'].map((folder) => `${folder}/include`);
const include = headers.find((folder) => existsSync(join(folder, 'cuda.h')));

test("what we declare of the driver agrees with NVIDIA's header", {
  skip: include === undefined ? 'needs cuda.h of a CUDA toolkit' : false,
}, () => {
  const source = fileURLToPath(new URL('test/native/fixtures/cuda-declarations.cc', packageRoot));
  const native = fileURLToPath(new URL('native', packageRoot));
  const { status, stderr } = spawnSync(
    'g++',
    ['-std=c++17', '-fsyntax-only', '-I', native, '-I', include!, source],
    { encoding: 'utf8' },
  );
  assert.equal(status, 0, stderr);
});
