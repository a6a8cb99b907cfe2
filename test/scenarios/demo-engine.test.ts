import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { eventually } from '../cluster/harness.ts';
import { SeededRandom } from '../plan/seeded-random.ts';
import { Command } from './command.ts';
import { remains } from './engine-harness.ts';
import { writeRandomModel } from './random-model.ts';

const script = 'scenarios/serve-demo-engine.ts';

test('the demo engine describes its options', async (t) => {
  const { code, output } = await new Command(t, script, '--help').ended;
  assert.equal(code, 0);
  for (const option of ['--model', '--ranks', '--port', '--devices'])
    assert.ok(output.includes(option), output);
});

test('a wrong option ends the demo engine with exit code 2 and one line that names it', async (t) => {
  const wrong: [options: string[], message: RegExp][] = [
    [[], /^error: required option '--model <path>' not specified\n$/],
    [['--model', 'x', '--ranks', 'two'], /^UsageError: --ranks is "two".*\n$/],
    [['--model', '/nowhere'], /^CheckpointError: \/nowhere does not exist\n$/],
  ];
  const ends = await Promise.all(wrong.map(([options]) => new Command(t, script, ...options).ended));
  for (const [at, { code, output, errors }] of ends.entries()) {
    assert.equal(code, 2, errors);
    assert.equal(output, '');
    assert.match(errors, wrong[at]![1]);
  }
});

/** How probable the engine finds each token but the first. */
async function logprobsOf(endpoint: string, prompt: number[]): Promise<number[]> {
  const body = JSON.stringify({ prompt, max_tokens: 1, prompt_logprobs: 0 });
  const answer = await fetch(`${endpoint}/v1/completions`, { method: 'POST', body });
  const { choices } = (await answer.json()) as {
    choices: [{ prompt_logprobs: (Record<string, { logprob: number }> | null)[] }];
  };
  return choices[0].prompt_logprobs.slice(1).map((entry) => Object.values(entry!)[0]!.logprob);
}

test('weightcast update updates the demo engine, and Ctrl-C stops it without leftovers', async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, 'model.safetensors');
  writeRandomModel(model, new SeededRandom(1));
  const namespace = `demo-${randomBytes(6).toString('hex')}`;
  const options = ['--model', model, '--ranks', '2', '--port', '0', '--devices', namespace];
  const engine = new Command(t, script, ...options, '--device-memory', '16MiB');
  const serving = /^serving demo at (http:\S+) on HOST-.*; press Ctrl-C to stop\n$/;
  await eventually('the engine serves', () => serving.test(engine.output));
  const [, endpoint] = serving.exec(engine.output)!;

  const target = ['--endpoint', endpoint!, '--ranks', '2', '--devices', `host:${namespace}`];
  const update = await new Command(t, 'src/cli/main.ts', 'update', '--checkpoint', model, ...target).ended;
  assert.equal(update.code, 0, update.errors);
  assert.match(update.output, /^version +model\S*@\w+$/m);
  const answer = await fetch(`${endpoint}/v1/completions`, {
    method: 'POST',
    body: JSON.stringify({ prompt: 'x', max_tokens: 1 }),
  });
  const { system_fingerprint: version } = (await answer.json()) as { system_fingerprint: string };
  assert.ok(update.output.includes(version), `${version} serves, not ${update.output}`);

  const answers = join(directory, 'answers.json');
  writeFileSync(
    answers,
    JSON.stringify([{ prompt: [1, 2, 3], logprobs: await logprobsOf(endpoint!, [1, 2, 3]) }]),
  );
  const proving = [...target, '--answers', answers];
  const proved = await new Command(t, 'src/cli/main.ts', 'update', '--checkpoint', model, ...proving).ended;
  assert.equal(proved.code, 0, proved.errors);
  assert.match(proved.output, /^engine +updated; .*answering holds$/m);

  assert.equal(remains(namespace).length, 2, 'each worker has memory on its device');
  engine.interrupt();
  const { code, errors } = await engine.ended;
  assert.equal(code, 130, errors);
  assert.equal(errors, 'AbortedError: interrupted by SIGINT\n');
  assert.deepEqual(remains(namespace), []);
});
