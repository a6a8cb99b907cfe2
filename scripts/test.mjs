// Runs the test suite: `npm test`, or `npm test -- test/plan` for a part of it. Quiet but for failures and the counts.
import { spawnSync } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

// These need hardware or tools that not every machine has, and have commands of their own.
const separate = ['test/gpu', 'test/rdma-vm', 'test/python'];

function testsIn(path) {
  if (statSync(path).isFile()) return path.endsWith('.test.ts') ? [path] : [];
  return readdirSync(path).flatMap((name) => {
    const child = join(path, name);
    return separate.includes(child) ? [] : testsIn(child);
  });
}

const wanted = process.argv.slice(2).filter((argument) => !argument.startsWith('-'));
const options = process.argv.slice(2).filter((argument) => argument.startsWith('-'));
const files = (wanted.length > 0 ? wanted : ['test']).flatMap((path) => testsIn(path.replace(/\/$/, '')));
if (files.length === 0) {
  console.error(`no tests in ${wanted.join(', ')}`);
  process.exit(2);
}
// A file that leaves something open never ends by itself.
const fileTimeoutMilliseconds = 120_000;
const reporter = new URL('./quiet-reporter.mjs', import.meta.url).href;
const { status } = spawnSync(
  process.execPath,
  [
    '--import',
    'tsx',
    '--test',
    '--test-concurrency=4',
    `--test-timeout=${fileTimeoutMilliseconds}`,
    `--test-reporter=${reporter}`,
    ...options,
    ...files,
  ],
  { stdio: 'inherit' },
);
process.exit(status ?? 1);
