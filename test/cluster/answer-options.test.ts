import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { readAnswers } from '../../src/cli/answers-file.ts';
import { answersAsked } from '../../src/cluster/answer-options.ts';
import { proofsAsked } from '../../src/cluster/proof-options.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';

const prompt = [1, 2, 3];

test('answers that cannot be compared are refused by what is wrong with them', () => {
  const tokens = Array.from({ length: 4_097 }, (_, token) => token);
  for (const [answers, message] of [
    [[], /^verify\.answers: Too small/],
    [[{ prompt }], /^verify\.answers\[0\]\.logprobs: Invalid input/],
    [
      [
        { prompt, logprobs: [-1] },
        { prompt: '', logprobs: [-1] },
      ],
      /^verify\.answers\[1\]\.prompt: /,
    ],
    [[{ prompt: tokens, logprobs: [-1] }], /^verify\.answers\[0\]\.prompt: /],
    [[{ prompt: [1.5, 2], logprobs: [-1] }], /^verify\.answers\[0\]\.prompt\[0\]: /],
    [[{ prompt, logprobs: [-1, 0.5] }], /^verify\.answers\[0\]\.logprobs\[1\]: Too big/],
    [[{ prompt, logprobs: [-1, null] }], /^verify\.answers\[0\]\.logprobs\[1\]: Invalid input/],
    [
      [{ prompt, logprobs: [-1, -1, -1] }],
      /^verify\.answers\[0\]\.logprobs: .* at most all its tokens but the first$/,
    ],
    [[{ prompt, logprobs: [-1], tolerance: 0 }], /^verify\.answers\[0\]\.tolerance: Too small/],
    [Array(65).fill({ prompt, logprobs: [-1] }), /^verify\.answers: Too big/],
    [{ agreeWith: 'a' }, /^verify\.answers\.prompts: Invalid input/],
    ['yes', /^verify\.answers: Invalid input/],
  ] as const) {
    assert.throws(() => answersAsked(answers, 'verify.answers'), { name: 'UsageError', message });
  }
});

test('answers are a proof beside the others', () => {
  const answers = [
    { prompt, logprobs: [-1, -0.5] },
    { prompt: 'text', logprobs: [0], tolerance: 0.5 },
  ];
  assert.deepEqual(proofsAsked({ answers }), { arrived: true, installed: true, answers });
  const agreement = { agreeWith: 'a', prompts: ['text', prompt] };
  assert.deepEqual(proofsAsked({ installed: false, answers: agreement }), {
    arrived: true,
    installed: false,
    answers: agreement,
  });
});

test('a file of answers is named with what is wrong in it', (t) => {
  const file = join(temporaryDirectory(t), 'answers.json');
  const missing = () => readAnswers(file);
  assert.throws(missing, { name: 'UsageError', message: /^--answers: cannot read .*answers\.json: ENOENT/ });
  writeFileSync(file, '[{"prompt": [1, 2, 3]');
  assert.throws(missing, { message: /^--answers: cannot read .*answers\.json: .*JSON/ });
  writeFileSync(file, '[{"prompt": [1, 2, 3], "logprobs": [NaN]}]');
  assert.throws(missing, { message: /JSON/ });
  writeFileSync(file, '[{"prompt": [1, 2, 3], "logprobs": []}]');
  assert.throws(missing, { message: /^--answers: .*answers\.json: answers\[0\]\.logprobs: Too small/ });
  writeFileSync(file, JSON.stringify([{ prompt, logprobs: [-1] }]));
  assert.deepEqual(readAnswers(file), [{ prompt, logprobs: [-1] }]);
});
