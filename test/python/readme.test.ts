/** What README.md shows that needs torch. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { test } from 'node:test';
import { readAnswers } from '../../src/cli/answers-file.ts';
import type { ExpectedAnswer } from '../../src/index.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { writeCommand } from '../commands.ts';
import { startDaemonBench } from '../daemon/harness.ts';
import { freePorts } from '../free-ports.ts';
import { replaced, runText, snippetWith } from '../readme/snippets.ts';
import { missingPython } from './python-interpreter.ts';

const python = process.env.WEIGHTCAST_PYTHON!;
const skip = missingPython('torch');

test('answers.json, as a trainer writes it', { skip }, async (t) => {
  const scratch = temporaryDirectory(t);
  const path = join(scratch, 'snippet.py');
  const prelude = `
import os, types, torch
os.chdir(${JSON.stringify(scratch)})
prompts = [[1, 2, 3], [4, 5]]
def model(ids):
    return types.SimpleNamespace(logits=torch.nn.functional.one_hot(ids, 8).to(torch.bfloat16))
`;
  writeFileSync(path, `${prelude}${replaced(snippetWith('def expected'), [])}`);
  await runText([python, '-W', 'error', path], {});
  const answers = readAnswers(join(scratch, 'answers.json')) as readonly ExpectedAnswer[];
  assert.deepEqual(
    answers.map(({ prompt, logprobs }) => [prompt, logprobs.length]),
    [
      [[1, 2, 3], 2],
      [[4, 5], 1],
    ],
  );
});

test('torchrun, in place of checkpoint-engine’s example', { skip }, async (t) => {
  const { daemon, engine, makeModel } = await startDaemonBench(t);
  const commands = temporaryDirectory(t);
  const port = await freePorts(2);
  writeCommand(commands, 'torchrun', `exec '${python}' -m torch.distributed.run --master-port ${port} "$@"`);
  const text = replaced(snippetWith('torchrun'), [
    ['--nproc-per-node 8', '--nproc-per-node 2'],
    ['/models/Qwen3-8B', `${await makeModel(2)} --endpoint ${engine.endpoint}`],
  ]);
  const output = await runText(['sh', '-ec', text], {
    WEIGHTCAST_SOCKET: daemon.socket,
    PATH: `${commands}${delimiter}${process.env.PATH}`,
    OMP_NUM_THREADS: '1',
  });
  assert.match(output, /^update with ranks: /m);
});
