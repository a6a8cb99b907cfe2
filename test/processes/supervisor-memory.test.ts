import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { supervisorMemory } from '../../src/processes/supervisor-memory.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';

test('a supervisor that is out of descriptors writes down what another one has to know all the same', (t) => {
  const directory = temporaryDirectory(t);
  const program = fileURLToPath(new URL('fixtures/without-descriptors.js', import.meta.url));
  const script = 'ulimit -n 64; exec "$@"';
  const words = ['-c', script, 'sh', process.execPath, program, directory];
  const { status, stderr } = spawnSync('sh', words, { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  const log = { debug() {}, info() {}, warn() {}, error: assert.fail };
  assert.equal(supervisorMemory(directory, 1, log).recall().get('note'), 'second');
});
