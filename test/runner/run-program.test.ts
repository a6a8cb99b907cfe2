/** What `npm test` knows of a process with tests in it, however that ends. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { patience } from '../patience.ts';

interface Outcome {
  readonly tests: readonly { is: string; name: string; file: string; report?: string; reason?: string }[];
  readonly failure: string | null;
}

async function run(t: TestContext, fixture: string, timeoutMilliseconds = patience): Promise<Outcome> {
  const { runProgram } = await import(new URL('scripts/run-program.mjs', packageRoot).href);
  const program = fileURLToPath(new URL(`fixtures/${fixture}.js`, import.meta.url));
  const records = join(temporaryDirectory(t), 'records');
  return runProgram(program, { options: [], timeoutMilliseconds, records });
}

const outcomes = ({ tests }: Outcome) => tests.map(({ is, name }) => `${name}: ${is}`);

test('each test counts, and one that failed says why', async (t) => {
  const outcome = await run(t, 'three-outcomes');
  assert.equal(outcome.failure, null);
  assert.deepEqual(outcomes(outcome), [
    'passes: pass',
    'within another: fail',
    'fails: fail',
    'is skipped: skip',
  ]);
  const [, within, around, skipped] = outcome.tests;
  assert.match(within!.report!, /^AssertionError.*\n[\s\S]*three-outcomes\.js:\d+:\d+/);
  assert.equal(around!.report, null, 'the failure is told once');
  assert.equal(skipped!.reason, 'it is not needed');
});

test('a process that hangs is ended, and the test in which it hangs is named', async (t) => {
  const outcome = await run(t, 'hangs', 3_000);
  assert.match(outcome.failure!, /^hangs: nothing happened for 3 s or more, in or after "never ends"$/);
  assert.deepEqual(outcomes(outcome), ['passes: pass']);
});

test('a process that dies fails, and the test in which it died is named', async (t) => {
  const outcome = await run(t, 'dies');
  assert.equal(outcome.failure, 'ended by SIGKILL, in or after "kills its process"');
  assert.deepEqual(outcomes(outcome), ['passes: pass']);
});

test('what fails when its test is over fails the process, and is told', async (t) => {
  const outcome = await run(t, 'throws-late');
  assert.match(outcome.failure!, /^ended with exit code 1, in or after "leaves something.*\n.*too late/);
});
