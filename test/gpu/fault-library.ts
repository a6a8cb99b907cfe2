import { strict as assert } from 'node:assert';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';

/** Builds a library that breaks the GPU context of the process that loads it (fixtures/fault.cc). */
export function buildFaultLibrary(t: { after(end: () => unknown): void }): string {
  const folder = mkdtempSync(join(tmpdir(), 'weightcast-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const root = fileURLToPath(packageRoot);
  const sources = ['test/gpu/fixtures/fault.cc', 'native/device/cuda/driver.cc', 'native/system/base.cc'];
  const library = join(folder, 'fault.so');
  const options = ['-shared', '-fPIC', '-std=c++17', '-Inative', '-o', library, ...sources, '-ldl'];
  const built = spawnSync('g++', options, { cwd: root, encoding: 'utf8' });
  assert.equal(built.status, 0, built.stderr);
  return library;
}
