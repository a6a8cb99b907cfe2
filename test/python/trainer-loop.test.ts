/** The example of a trainer, as its users run it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { packageRoot } from '../../src/package-root.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { missingPython } from './python-interpreter.ts';

test('a trainer publishes each of 20 steps, an engine answers as each of them, and nothing is left', {
  skip: missingPython('torch', 'zmq', 'msgpack'),
}, async (t) => {
  const scratch = temporaryDirectory(t);
  const command = join(scratch, 'weightcast');
  const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
  writeFileSync(command, `#!/bin/sh\nexec '${process.execPath}' '${main}' "$@"\n`, { mode: 0o755 });
  const file = join(scratch, 'result.json');
  const words = ['-m', 'weightcast.examples.trainer_loop', '--json', file];
  const env = {
    ...process.env,
    PYTHONPATH: fileURLToPath(new URL('python', packageRoot)),
    WEIGHTCAST_COMMAND: command,
    TMPDIR: scratch,
  };
  await promisify(execFile)(process.env.WEIGHTCAST_PYTHON!, words, { env });
  const { seconds, steps } = JSON.parse(readFileSync(file, 'utf8'));
  assert.equal(steps.length, 20);
  assert.deepEqual(Object.keys(seconds), ['train', 'publish', 'update', 'ask']);
  for (const part of Object.keys(seconds)) assert.ok(seconds[part] > 0);
  const left = readdirSync(scratch).filter((name) => existsSync(join(scratch, name, 'daemon.sock')));
  assert.deepEqual(left, []);
  assert.deepEqual(
    readdirSync('/dev/shm').filter((name) => name.includes('trainer-loop')),
    [],
  );
});
