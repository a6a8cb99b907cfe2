import { writeFileSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe } from '../../src/errors.ts';
import { Cluster } from '../../src/index.ts';
import { packageRoot } from '../../src/package-root.ts';
import { type Answer, VllmServer } from '../../test/engines-real/vllm-server.ts';

/** Of models.py. */
export type Family = 'dense' | 'tied' | 'experts' | 'dense-fp8' | 'experts-fp8' | 'gate-without-scale-fp8';

export interface RowSettings {
  readonly name: string;
  readonly title: string;
  readonly family: Family;
  /** More of vLLM's options. */
  readonly options?: readonly string[];
}

const eager = ['--enforce-eager'];

export const rows: readonly RowSettings[] = [
  { name: 'fp8-dense', title: 'FP8 blocks, dense, CUDA graphs', family: 'dense-fp8' },
  { name: 'fp8-dense-eager', title: 'FP8 blocks, dense, eager', family: 'dense-fp8', options: eager },
  { name: 'fp8-experts', title: 'FP8 blocks, experts, CUDA graphs', family: 'experts-fp8' },
  { name: 'fp8-experts-eager', title: 'FP8 blocks, experts, eager', family: 'experts-fp8', options: eager },
  {
    name: 'online-fp8',
    title: 'BF16 files, `--quantization fp8`, dense, CUDA graphs',
    family: 'dense',
    options: ['--quantization', 'fp8'],
  },
  {
    name: 'online-fp8-experts',
    title: 'BF16 files, `--quantization fp8`, experts, CUDA graphs',
    family: 'experts',
    options: ['--quantization', 'fp8'],
  },
  {
    name: 'fp8-gate-without-scale',
    title: 'FP8 blocks, experts, files without scales for the gate, eager',
    family: 'gate-without-scale-fp8',
    options: eager,
  },
  { name: 'bf16-dense', title: 'BF16, dense, CUDA graphs', family: 'dense' },
  { name: 'bf16-experts', title: 'BF16, experts, CUDA graphs', family: 'experts' },
  { name: 'bf16-tied', title: 'BF16, dense, tied embeddings, CUDA graphs', family: 'tied' },
];

export interface Outcome {
  readonly name: string;
  readonly title: string;
  /** What the engine answered after B, A and B again, or why it was not updated. */
  readonly result: string;
  readonly coverage: string | null;
  /** Of each update. */
  readonly seconds: readonly number[];
  /** The largest difference of a log-probability from those of a fresh start, in answers of the same words. */
  readonly difference: number | null;
}

/** Backends that need no compiler of their own, memory for many engines beside each other, and no profiling of it. */
const common = [
  ['--attention-backend', 'TRITON_ATTN'],
  ['--gpu-memory-utilization', '0.06'],
  ['--kv-cache-memory-bytes', `${2 ** 29}`],
  ['--max-num-seqs', '16'],
  ['--max-num-batched-tokens', '512'],
].flat();
const environment = { VLLM_USE_DEEP_GEMM: '0', VLLM_USE_FLASHINFER_SAMPLER: '0' };
const extension = ['--worker-extension-cls', 'weightcast.worker.VllmWorkerExtension'];
const packages = fileURLToPath(new URL('python', packageRoot));

/** Log-probabilities that compiled kernels may differ by from one start to the next; other weights differ by more. */
const tolerance = 0.03;
const answerSeconds = 60;

/** Of each answer the largest difference of a log-probability; infinite if the words differ. */
export function differencesOf(some: readonly Answer[], others: readonly Answer[]): number[] {
  return some.map(([text, probabilities], i) => {
    const [otherText, otherProbabilities] = others[i]!;
    if (text !== otherText) return Number.POSITIVE_INFINITY;
    const largest = Math.max(...probabilities.map((value, k) => Math.abs(value - otherProbabilities[k]!)));
    return Math.round(largest * 100) / 100;
  });
}

function agreeing(some: readonly Answer[], others: readonly Answer[]): number {
  return differencesOf(some, others).filter((difference) => difference <= tolerance).length;
}

/** One kind of model: an engine that is updated from A to B, to A and to B again, beside one that is started with B. */
export class Row {
  readonly #settings: RowSettings;
  readonly #place: { readonly python: string; readonly models: string };
  readonly #ends: (() => unknown)[] = [];
  readonly #seconds: number[] = [];

  constructor(settings: RowSettings, place: { readonly python: string; readonly models: string }) {
    this.#settings = settings;
    this.#place = place;
  }

  /** Never rejects. */
  async run(): Promise<Outcome> {
    const { name, title } = this.#settings;
    let found: Pick<Outcome, 'result' | 'coverage' | 'difference'>;
    try {
      found = await this.#compare();
    } catch (error) {
      found = { result: `not run: ${describe(error)}`, coverage: null, difference: null };
    } finally {
      await Promise.all(this.#ends.map((end) => end()));
    }
    return { name, title, ...found, seconds: this.#seconds };
  }

  async #compare(): Promise<Pick<Outcome, 'result' | 'coverage' | 'difference'>> {
    const [updated, fresh] = await Promise.all([this.#start('A', extension), this.#start('B', [])]);
    const expected = { A: await updated.answers(), B: await fresh.answers() };
    await fresh.stop();
    if (agreeing(expected.A, expected.B) > 0) throw new Error('A and B give an answer alike');
    const cluster = await Cluster.start({
      ranks: 1,
      instances: [{ name: 'vllm', endpoint: updated.endpoint, ranks: [0], resetCache: true }],
      devices: { kind: 'cuda', indices: [0] },
    });
    this.#ends.push(() => cluster.stop());
    const differences: number[] = [];
    const wrong: string[] = [];
    for (const letter of ['A', 'B'] as const) await cluster.register(letter, this.#model(letter));
    for (const letter of ['B', 'A', 'B'] as const) {
      try {
        const report = await cluster.update(letter);
        this.#seconds.push(Math.round(report.seconds * 1_000) / 1_000);
      } catch (error) {
        return { ...(await refusal(error, updated, expected)), coverage: null };
      }
      const answers = await updated.answers();
      differences.push(...differencesOf(answers, expected[letter]).filter(Number.isFinite));
      const right = agreeing(answers, expected[letter]);
      if (right < answers.length) wrong.push(`${letter} (${right} of ${answers.length} right)`);
    }
    const coverage = /'coverage': '(\w+)'/.exec(updated.log)?.[1] ?? null;
    const result = wrong.length === 0 ? 'as a fresh start' : `WRONG after ${wrong.join(', ')}`;
    return { result, coverage, difference: differences.length === 0 ? null : Math.max(...differences) };
  }

  #model(letter: 'A' | 'B'): string {
    return `${this.#place.models}/${this.#settings.family}-${letter}`;
  }

  async #start(letter: 'A' | 'B', options: readonly string[]): Promise<VllmServer> {
    const name = `${this.#settings.name}-${letter}`;
    const { PYTHONPATH: given } = process.env;
    const server = await VllmServer.start(
      { after: (end) => this.#ends.push(end) },
      {
        python: this.#place.python,
        model: this.#model(letter),
        options: [...common, ...(this.#settings.options ?? []), ...options],
        environment: {
          ...environment,
          // Engines that start at once would write the same files of compiled models.
          VLLM_CACHE_ROOT: `${this.#place.models}/cache-${name}`,
          PYTHONPATH: given === undefined ? packages : `${packages}:${given}`,
        },
      },
    );
    const { WEIGHTCAST_BENCH_LOGS: logs } = process.env;
    if (logs !== undefined) this.#ends.push(() => writeFileSync(`${logs}/${name}.log`, server.log));
    return server;
  }
}

/** Why an update failed, and what the engine answers since. */
async function refusal(
  error: unknown,
  engine: VllmServer,
  expected: Readonly<Record<'A' | 'B', readonly Answer[]>>,
): Promise<Pick<Outcome, 'result' | 'difference'>> {
  const answers = await Promise.race([
    engine.answers().catch(() => null),
    setTimeout(answerSeconds * 1_000, null, { ref: false }),
  ]);
  const since =
    answers === null
      ? 'answers nothing'
      : agreeing(answers, expected.A) === answers.length
        ? 'answers as before'
        : 'gives other answers';
  return { result: `refused, then ${since}: ${describe(error)}`, difference: null };
}
