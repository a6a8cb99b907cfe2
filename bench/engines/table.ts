import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { packageRoot } from '../../src/package-root.ts';
import { circumstances, heading } from '../report.ts';
import { type Outcome, rows } from './row.ts';

interface Measured extends Outcome, ReturnType<typeof circumstances> {
  readonly environment: readonly string[];
}

const directory = new URL('bench/results/', packageRoot);
const json = new URL('engines.json', directory);
const method =
  'Of each kind of model a pair A and B with random weights, 4 layers. vLLM is started with A and with the worker ' +
  'extension, and updated to B, to A and to B again, each time with resetCache; another is started with B. After each ' +
  'update four greedy answers of 8 words are compared with those of the engine that was started with the weights: the ' +
  'same words, and log-probabilities within 0.03. Seconds are those of the whole updates, while other engines start. ' +
  'VLLM_USE_DEEP_GEMM=0, VLLM_USE_FLASHINFER_SAMPLER=0, --attention-backend TRITON_ATTN.';

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
    '| model | answers after updates | largest difference | coverage | seconds | commit |',
    '|---|---|---:|---|---|---|',
    ...all.map(
      ({ title, result, difference, coverage, seconds, commit }) =>
        `| ${[title, oneLine(result), difference ?? '', coverage ?? '', seconds.join(', '), commit].join(' | ')} |`,
    ),
    '',
  ].join('\n');
}

function oneLine(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ').trim();
}
