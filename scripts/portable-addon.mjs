// The addon as it goes to other machines: with the C++ library in it, since theirs may be older than this compiler's.
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

export function run(command, words, options = {}) {
  return execFileSync(command, words, { stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8', ...options });
}

/**
 * Compiles it in build/portable, beside the build of this checkout; the second time only what has changed. Returns the path of
 * a copy in `scratch`.
 */
export function buildPortableAddon(scratch) {
  const tree = join(root, 'build/portable');
  mkdirSync(tree, { recursive: true });
  for (const name of ['binding.gyp', 'package.json']) cpSync(join(root, name), join(tree, name));
  for (const name of ['native', 'node_modules']) {
    rmSync(join(tree, name), { force: true });
    symlinkSync(join(root, name), join(tree, name));
  }
  run('node-gyp', ['configure', '--loglevel=error', '--', '-Dstatic_runtime=true'], { cwd: tree });
  run('node-gyp', ['build', '--loglevel=error', '-j', 'max'], { cwd: tree });
  const addon = join(scratch, 'weightcast.node');
  run('strip', ['--strip-unneeded', '-o', addon, join(tree, 'build/Release/weightcast.node')]);
  return addon;
}

/** The newest glibc that a library asks for, as [2, 34]. */
export function glibcOf(path) {
  const versions = run('objdump', ['-T', path]).matchAll(/GLIBC_(\d+)\.(\d+)/g);
  const newest = [...versions]
    .map(([, major, minor]) => [Number(major), Number(minor)])
    .sort(compareVersions)
    .at(-1);
  if (newest === undefined) throw new Error(`${path} asks for no glibc`);
  return newest;
}

export function compareVersions([major, minor], [otherMajor, otherMinor]) {
  return major - otherMajor || minor - otherMinor;
}
