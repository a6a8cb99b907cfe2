import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';

const root = fileURLToPath(packageRoot);

/** Runs a program whose system calls go through fixtures/NAME.cc. */
export function runPreloaded(name: string, program: URL, ...values: string[]) {
  // The runtime of a sanitizer has to come first.
  const preloaded = [process.env.LD_PRELOAD, build(name)].filter(Boolean).join(':');
  return spawnSync(process.execPath, [fileURLToPath(program), ...values], {
    encoding: 'utf8',
    env: { ...process.env, LD_PRELOAD: preloaded },
    timeout: 60_000,
  });
}

function build(name: string): string {
  const source = join(root, 'test/native/fixtures', `${name}.cc`);
  const library = join(root, 'build/preloaded', `${name}.so`);
  if (existsSync(library) && statSync(library).mtimeMs > statSync(source).mtimeMs) return library;
  mkdirSync(dirname(library), { recursive: true });
  const draft = `${library}.${process.pid}`;
  const { status, stderr } = spawnSync('g++', ['-shared', '-fPIC', '-O1', '-o', draft, source, '-ldl']);
  if (status !== 0) throw new Error(`${name} does not build: ${stderr}`);
  renameSync(draft, library);
  return library;
}
