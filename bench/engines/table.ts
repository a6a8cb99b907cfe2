import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { packageRoot } from '../../src/package-root.ts';
import { circumstances, heading } from '../report.ts';
import type { Outcome } from './row.ts';
import { rows } from './rows.ts';

/** Of earlier commits some lack `proofs` or `fed`. */
interface Measured
  extends Omit<Outcome, 'proofs' | 'fed'>,
    Partial<Pick<Outcome, 'proofs' | 'fed'>>,
    ReturnType<typeof circumstances> {
  readonly environment: readonly string[];
}

const directory = new URL('bench/results/', packageRoot);
const json = new URL('engines.json', directory);
const method =
  'Of each kind of model a pair A and B with random weights, 4 layers. vLLM is started with A and updated to B, to A and ' +
  'to B twice, each time with pause "wait", resetCache and what is verified by default, the last time against a baseline ' +
  'taken of another that is started with B: what is proved of what it holds is under "installed". ' +
  'Rows with nothing there are of earlier commits, updated to B only once at the end. After each update four greedy ' +
  'answers of 8 words are compared with those of the engine that was started with the weights: the same words, and the ' +
  'same log-probabilities to two digits. Answers that an engine gives otherwise when it is asked twice are not compared; ' +
  'where some differ, a second engine is started with B, and if that differs from the first, so much is said and no more. ' +
  'Fed: what each worker got, and which part of the bytes at most. ' +
  'Tensors are all parameters, buffers and what else layers hold, after the last update, by their hashes. Memory is what ' +
  "the engine allocated during the updates beyond what it held before them; the slots are the rank process's. Seconds " +
  'are those of the whole updates, while other engines start; those of the pause end when the engine has said that it ' +
  'goes on. Where it does not say torch.compile, CUDA graphs are those of --compilation-config {"backend": "eager"}: ' +
  'compiled kernels are chosen by measuring them, and two engines started with the same weights answer differently. ' +
  'VLLM_USE_DEEP_GEMM=0, VLLM_USE_FLASHINFER_SAMPLER=0, --attention-backend TRITON_ATTN or TRITON_MLA, experts by Triton.';

/** Adds a row to bench/results/engines.json, or replaces the one of its name, and writes engines.md again. */
export function writeRow(outcome: Outcome, environment: readonly string[]): void {
  mkdirSync(directory, { recursive: true });
  const earlier = existsSync(json) ? (JSON.parse(readFileSync(json, 'utf8')) as Measured[]) : [];
  const measured: Measured = { ...outcome, ...circumstances(), environment };
  const all = [...earlier.filter(({ name }) => name !== outcome.name), measured];
  const order = rows.map(({ name }) => name);
  all.sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  writeFileSync(json, `${JSON.stringify(all, null, 2)}\n`);
  writeFileSync(new URL('engines.md', directory), markdown(all, measured));
}

function markdown(all: readonly Measured[], last: Measured): string {
  const head = { title: 'Real engines', method, command: 'npm run bench:engines' };
  return [
    ...heading({ ...head, environment: last.environment }, last),
    '| model | face | answers after updates | tensors | coverage | installed | fed | update, s | paused, s | memory, MiB | vLLM | commit |',
    '|---|---|---|---|---|---|---|---|---|---:|---|---|',
    ...all.map((row) => `| ${cells(row).join(' | ')} |`),
    '',
  ].join('\n');
}

function cells(row: Measured): (string | number)[] {
  const engine = row.environment.find((line) => line.startsWith('vLLM: '))?.slice('vLLM: '.length) ?? '';
  const times = [row.seconds.join(', '), row.pauseSeconds.join(', ')];
  const held = [
    row.tensors ?? '',
    row.coverage ?? '',
    (row.proofs ?? []).join(', '),
    (row.fed ?? []).join(', '),
    ...times,
    row.extraMiB ?? '',
  ];
  return [row.title, row.face, oneLine(row.result), ...held, engine, row.commit];
}

function oneLine(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ').trim();
}
