// Compiles all that tests run, once, into build/test: what they start as processes then needs no loader.
import { spawnSync } from 'node:child_process';
import { readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundle, packageEntries } from './bundle.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const tree = join(root, 'build/test');
const folders = ['src', 'simulation', 'scenarios', 'bench', 'test', 'scripts'];
/** What the tests start hundreds of times. */
const entries = [
  ...packageEntries,
  'scenarios/reference-engine/server.ts',
  'scenarios/reference-engine/worker.ts',
];

function filesIn(folder, ending) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(ending))
    .map((entry) => join(entry.parentPath, entry.name));
}

function modified(path) {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

const sources = folders.flatMap((folder) => filesIn(join(root, folder), '.ts'));

/** A program whose source is gone would still be found. */
function removeOrphans() {
  const wanted = new Set(sources.map((path) => join(tree, path.slice(root.length)).replace(/\.ts$/, '.js')));
  for (const folder of folders) {
    if (modified(join(tree, folder)) === 0) continue;
    for (const path of filesIn(join(tree, folder), '.js')) if (!wanted.has(path)) rmSync(path);
  }
}

/** Tests of another addon than the sources' fail far from the reason, or do not end. */
function refuseOldAddon() {
  const addon = join(root, 'build/Release/weightcast.node');
  const sources = ['.cc', '.h'].flatMap((ending) => filesIn(join(root, 'native'), ending));
  if (Math.max(...sources.map(modified)) <= modified(addon)) return;
  console.error('build/Release/weightcast.node is older than native/: npm run build:native');
  process.exit(1);
}

const stamp = join(tree, '.bundled');
const newest = Math.max(
  ...[...sources, join(root, 'package-lock.json'), ...filesIn(join(root, 'scripts'), '.mjs')].map(modified),
);
removeOrphans();
refuseOldAddon();
const compiler = join(root, 'node_modules/.bin/tsc');
const { status } = spawnSync(compiler, ['-p', join(root, 'tsconfig.test.json')], { stdio: 'inherit' });
if (status !== 0) process.exit(status ?? 1);
if (modified(stamp) < newest) {
  await bundle(entries, tree);
  writeFileSync(stamp, '');
}
