import { spawnSync } from 'node:child_process';
import { mkdirSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';

export const root = fileURLToPath(packageRoot);
/** Of -fsanitize, where the addon is built with it: locks of code that is not would be unknown to it. */
const sanitizers = process.env.WEIGHTCAST_TEST_SANITIZERS;

export interface FakeLibrary {
  /** File name, and soname. */
  readonly name: string;
  readonly sources: readonly string[];
  readonly headers?: readonly string[];
  readonly options?: readonly string[];
}

/** Builds the library if need be, and returns its path; it has a folder of its own. */
export function buildFakeLibrary({ name, sources, headers = [], options = [] }: FakeLibrary): string {
  const folder = join(root, 'build', ['fake', name, ...(sanitizers?.split(',') ?? [])].join('-'));
  const library = join(folder, name);
  const newest = Math.max(...[...sources, ...headers].map((path) => statSync(path).mtimeMs));
  const built = statSync(library, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  if (built > newest) return library;
  mkdirSync(folder, { recursive: true });
  // Test files are run at the same time.
  const draft = `${library}.${process.pid}`;
  const { status, stderr } = spawnSync('g++', [
    ...['-shared', '-fPIC', '-std=c++17', '-O1', '-g1', '-pthread', '-fvisibility=hidden'],
    ...['-Wall', '-Wextra', `-Wl,-soname,${name}`, '-o', draft],
    ...(sanitizers === undefined ? [] : [`-fsanitize=${sanitizers}`]),
    ...options,
    ...sources,
    '-ldl',
  ]);
  if (status !== 0) throw new Error(`${name} does not build: ${stderr}`);
  renameSync(draft, library);
  return library;
}
