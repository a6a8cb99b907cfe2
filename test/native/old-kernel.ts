import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';

const root = fileURLToPath(packageRoot);
const source = join(root, 'test/native/fixtures/old-kernel.cc');

/** Programs that see a kernel without the newer kinds of madvise(2). */
export interface OldKernel {
  run(program: URL, ...values: string[]): { status: number | null; stdout: string; stderr: string };
}

export function buildOldKernel(): OldKernel {
  const library = join(root, 'build/old-kernel/madvise.so');
  if (!existsSync(library) || statSync(library).mtimeMs < statSync(source).mtimeMs) {
    mkdirSync(dirname(library), { recursive: true });
    const draft = `${library}.${process.pid}`;
    const { status, stderr } = spawnSync('g++', ['-shared', '-fPIC', '-O1', '-o', draft, source, '-ldl']);
    if (status !== 0) throw new Error(`the old kernel does not build: ${stderr}`);
    renameSync(draft, library);
  }
  return {
    run(program, ...values) {
      // The runtime of a sanitizer has to come first.
      const preloaded = [process.env.LD_PRELOAD, library].filter(Boolean).join(':');
      return spawnSync(process.execPath, [fileURLToPath(program), ...values], {
        encoding: 'utf8',
        env: { ...process.env, LD_PRELOAD: preloaded },
        timeout: 60_000,
      });
    },
  };
}
