/** The example of a trainer, as its users run it. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { writeWeightcast } from '../commands.ts';
import { Program } from '../program.ts';
import { missingPython } from './python-interpreter.ts';

test('a trainer publishes each of 20 steps, an engine answers as each of them, and nothing is left', {
  skip: missingPython('torch', 'zmq', 'msgpack'),
}, async (t) => {
  const scratch = temporaryDirectory(t);
  const file = join(scratch, 'result.json');
  const words = [process.env.WEIGHTCAST_PYTHON!, '-m', 'weightcast.examples.trainer_loop', '--json', file];
  const example = new Program(t, words, {
    variables: {
      PYTHONPATH: fileURLToPath(new URL('python', packageRoot)),
      WEIGHTCAST_COMMAND: writeWeightcast(scratch),
      TMPDIR: scratch,
    },
  });
  await example.succeeded();
  const { seconds, steps } = JSON.parse(readFileSync(file, 'utf8'));
  assert.equal(steps.length, 20);
  assert.deepEqual(Object.keys(seconds), ['train', 'publish', 'update', 'ask']);
  for (const part of Object.keys(seconds)) assert.ok(seconds[part] > 0);
  const left = readdirSync(scratch).filter((name) => existsSync(join(scratch, name, 'daemon.sock')));
  assert.deepEqual(left, []);
  assert.deepEqual(
    readdirSync('/dev/shm').filter((name) => name.includes(`trainer-loop-${example.pid}`)),
    [],
  );
});
