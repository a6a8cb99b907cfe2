/** Proof by answers: what an engine says of prompts right after an update is compared with what it should say. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { statesOf } from './fake-instance.ts';
import { withFleet } from './fleet.ts';

const prompts = ['the cat sat on the mat', [11, 12, 13, 14, 15, 16, 17, 18]];

/** How probable the engine finds the tokens of each prompt. */
async function ask(endpoint: string): Promise<{ prompt: string | number[]; logprobs: number[] }[]> {
  return Promise.all(
    prompts.map(async (prompt) => {
      const body = JSON.stringify({ prompt, max_tokens: 1, prompt_logprobs: 0 });
      const response = await fetch(`${endpoint}/v1/completions`, { method: 'POST', body });
      const { choices } = (await response.json()) as {
        choices: [{ prompt_logprobs: (Record<string, { logprob: number }> | null)[] }];
      };
      const entries = choices[0].prompt_logprobs.slice(1);
      return { prompt, logprobs: entries.map((entry) => Object.values(entry!)[0]!.logprob) };
    }),
  );
}

test('an engine that answers otherwise than expected is paused and broken, one that answers so is proved', async () => {
  await withFleet({ instances: { a: [0], b: [1] } }, async ({ cluster, engines, makeModel }) => {
    const endpoint = engines.get('b')!.endpoint;
    const isPaused = async () => (await fetch(`${endpoint}/is_paused`)).json();
    await cluster.register('v', await makeModel(2));
    await cluster.register('w', await makeModel(3));
    await cluster.update('v', { instances: ['a'] });
    const answers = await ask(engines.get('a')!.endpoint);

    const ofLast = answers.map(({ prompt, logprobs }) => ({ prompt, logprobs: logprobs.slice(-3) }));
    for (const expected of [answers, ofLast]) {
      const report = await cluster.update('v', { instances: ['b'], verify: { answers: expected } });
      assert.equal(report.instances[0]?.proofs.answering, 'holds');
    }

    await assert.rejects(cluster.update('w', { instances: ['b'], verify: { answers } }), (error: Error) => {
      assert.equal(error.name, 'VerificationError');
      assert.match(
        error.message,
        /^instance b does not answer as expected: prompt [12] of 2 \((tokens 11 12|"the cat).*\), token \d: log-probability -[\d.]+, expected -[\d.]+ \(off by [\d.]+, of which 0\.2 is tolerated\); instance b is broken and stays paused: .*; instance b answered requests for [\d.]+ s before that$/,
      );
      return true;
    });
    assert.deepEqual(await isPaused(), { is_paused: true });
    assert.deepEqual(await statesOf(cluster), [
      ['a', 'serving', 'v', false],
      ['b', 'broken', null, true],
    ]);

    const agreement = { agreeWith: 'a', prompts };
    const update = (checkpoint: string, instances: string[]) =>
      cluster.update(checkpoint, { instances, verify: { answers: agreement } });
    await assert.rejects(update('w', ['b']), {
      name: 'UsageError',
      message: /^verify\.answers\.agreeWith: instance a serves v@[0-9a-f]+, not w@[0-9a-f]+$/,
    });
    await assert.rejects(update('v', ['a', 'b']), { message: /instance a is itself to be updated/ });
    assert.equal((await update('v', ['b'])).instances[0]?.proofs.answering, 'holds');
    assert.deepEqual(await isPaused(), { is_paused: false });
    assert.deepEqual((await statesOf(cluster))[1], ['b', 'serving', 'v', false]);
  });
});
