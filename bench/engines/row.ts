import { writeFileSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe } from '../../src/errors.ts';
import { Baseline, Cluster, type InstanceReport } from '../../src/index.ts';
import { packageRoot } from '../../src/package-root.ts';
import { type Answer, VllmServer } from '../../test/engines-real/vllm-server.ts';
import { count, same } from './answers.ts';
import { attentionOptions, plainKernels } from './kernels.ts';
import type { RowSettings } from './rows.ts';
import { WatchedEndpoint } from './watched-endpoint.ts';

export interface Outcome {
  readonly name: string;
  readonly title: string;
  readonly face: string;
  /** What the engine answered after B, A, B and B again, or why it was not updated. */
  readonly result: string;
  /** Of the tensors that the models hold after the last update, which are not those of an engine started with B. */
  readonly tensors: string | null;
  readonly coverage: string | null;
  /** Of each update, what is proved of what the model holds. The last is compared with an engine started with B. */
  readonly proofs: readonly string[];
  /** Of each update, whether workers got whole tensors or the parts that they keep, and which part of the bytes one got at most. */
  readonly fed: readonly string[];
  /** Of each update. */
  readonly seconds: readonly number[];
  /** Of each update, for which the engine was paused. */
  readonly pauseSeconds: readonly number[];
  /** Memory that the engine's process needed for an update, at most. */
  readonly extraMiB: number | null;
}

type Found = Pick<Outcome, 'result' | 'coverage' | 'tensors' | 'extraMiB'>;
type Letter = 'A' | 'B';

/** Memory for many engines beside each other, and no profiling of it. */
const common = [
  ['--gpu-memory-utilization', '0.06'],
  ['--kv-cache-memory-bytes', `${2 ** 29}`],
  ['--max-num-seqs', '16'],
  ['--max-num-batched-tokens', '512'],
].flat();
const faces = {
  extension: ['--worker-extension-cls', 'measured.MeasuredExtension'],
  'transfer engine': ['--weight-transfer-config', '{"backend": "weightcast"}'],
  'checkpoint-engine': ['--worker-extension-cls', 'checkpoint_engine.worker.VllmColocateWorkerExtension'],
} as const;
const packages = ['python', 'bench/engines'].map((path) => fileURLToPath(new URL(path, packageRoot)));

const { WEIGHTCAST_BENCH_LOGS: logs } = process.env;

const nothing = { coverage: null, tensors: null, extraMiB: null };
const answerSeconds = 60;
const namedAtMost = 4;

/** One kind of model: an engine that is updated from A to B, to A and to B twice, beside one that is started with B. */
export class Row {
  readonly #settings: RowSettings;
  readonly #place: { readonly python: string; readonly models: string };
  readonly #ends: (() => unknown)[] = [];
  readonly #seconds: number[] = [];
  readonly #proofs: string[] = [];
  readonly #fed: string[] = [];
  readonly #held: Record<string, unknown> = {};
  readonly #face: NonNullable<RowSettings['face']>;
  readonly #gpus: number[];
  #watched: WatchedEndpoint | undefined;

  constructor(settings: RowSettings, place: { readonly python: string; readonly models: string }) {
    this.#settings = settings;
    this.#place = place;
    this.#face = settings.face ?? 'extension';
    this.#gpus = Array.from({ length: settings.gpus ?? 1 }, (_, index) => index);
  }

  /** Never rejects. */
  async run(): Promise<Outcome> {
    const { name, title } = this.#settings;
    let found: Found;
    try {
      found = await this.#compare();
    } catch (error) {
      const text = error instanceof Error ? error.message : describe(error);
      if (logs !== undefined) writeFileSync(`${logs}/${name}-error.log`, text);
      found = { result: `not run: ${causeOf(text)}`, ...nothing };
    } finally {
      // The cluster first, since it talks to engines to its end.
      for (const end of this.#ends) await end();
      if (logs !== undefined) writeFileSync(`${logs}/${name}-held.json`, JSON.stringify(this.#held));
    }
    return {
      name,
      title,
      face: this.#face,
      ...found,
      proofs: this.#proofs,
      fed: this.#fed,
      seconds: this.#seconds,
      pauseSeconds: this.#watched?.pauseSeconds ?? [],
    };
  }

  async #compare(): Promise<Found> {
    const [updated, fresh] = await Promise.all([this.#start('A', 'updated'), this.#start('B', 'fresh')]);
    const expected = { A: await updated.answers(), B: await fresh.answers() };
    if (count(same(expected.A, expected.B)) > 0) throw new Error('A and B give an answer alike');
    // An engine may answer otherwise each time: kernels that scale by what else is in a batch, padding too.
    const [againA, againB] = [await again(updated), await again(fresh)];
    const steadyB = same(expected.B, againB);
    const steady = same(expected.A, againA).map((isSteady, i) => isSteady && steadyB[i]!);
    const hashes = await this.#ask(fresh, 'hashes');
    await this.#noteHeld('fresh', fresh);
    const hasProofs = this.#face === 'extension';
    const baseline = hasProofs ? await Baseline.of([{ endpoint: fresh.endpoint }]) : undefined;
    await fresh.stop();
    const cluster = await this.#cluster(updated);
    await this.#ask(updated, 'start_measuring_memory');
    await this.#noteHeld('updated, before', updated);
    const answers: [Letter, readonly Answer[]][] = [];
    for (const [letter, verify] of [['B'], ['A'], ['B'], ['B', baseline && { baseline }]] as const) {
      try {
        await this.#update(cluster, letter, verify ?? true);
      } catch (error) {
        await this.#noteHeld(`refused ${letter}`, updated);
        return { result: await refusal(error, updated, expected, steady), ...nothing };
      }
      answers.push([letter, await updated.answers()]);
      await this.#noteHeld(`${answers.length}, ${letter}`, updated);
    }
    const extraBytes = (await this.#ask(updated, 'extra_memory')) as number[] | null;
    return {
      result: await this.#judge(answers, expected, steady),
      tensors: differing(await this.#ask(updated, 'hashes'), hashes),
      coverage: /'coverage': '(\w+)'/.exec(updated.log)?.[1] ?? null,
      extraMiB: extraBytes === null ? null : Math.round(Math.max(...extraBytes) / 2 ** 20),
    };
  }

  async #update(cluster: Cluster, letter: Letter, verify: true | { baseline: Baseline }): Promise<void> {
    const { acceptUnproven = false } = this.#settings;
    const report = await cluster.update(letter, { verify, acceptUnproven });
    this.#seconds.push(Math.round(report.seconds * 1_000) / 1_000);
    const [{ proofs, fed, whyWhole }] = report.instances as [InstanceReport];
    this.#proofs.push(proofs.installed);
    const most = Math.max(...report.links.map((link) => link.uploadedBytes + link.broadcastBytes));
    this.#fed.push(`${fed} (${Math.round((100 * most) / report.bytes)} %)`);
    if (whyWhole !== null) console.log(`${this.#settings.name}, ${letter}: whole tensors: ${whyWhole}`);
  }

  async #judge(
    answers: readonly [Letter, readonly Answer[]][],
    expected: Readonly<Record<Letter, readonly Answer[]>>,
    steady: readonly boolean[],
  ): Promise<string> {
    const compared = count(steady);
    if (compared === 0) return 'not comparable: the engine answers otherwise each time it is asked';
    const among = compared === steady.length ? '' : ` in the ${compared} answers that are the same each time`;
    const wrong = answers
      .map(([letter, given]) => [letter, agreeing(given, expected[letter], steady)] as const)
      .filter(([, right]) => right < compared)
      .map(([letter, right]) => `${letter} (${right} of ${compared} right)`);
    if (wrong.length === 0) return `as a fresh start${among}`;
    const another = await this.#start('B', 'fresh-again');
    const alike = agreeing(await another.answers(), expected.B, steady);
    if (alike < compared) return `not comparable: two fresh starts agree in ${alike} of ${compared} answers`;
    return `WRONG after ${wrong.join(', ')}`;
  }

  async #cluster(engine: VllmServer): Promise<Cluster> {
    const watched = await WatchedEndpoint.before(engine.endpoint);
    this.#watched = watched;
    this.#ends.push(() => watched.close());
    const cluster = await Cluster.start({
      ranks: this.#gpus.length,
      instances: [
        {
          name: 'vllm',
          endpoint: watched.endpoint,
          ranks: this.#gpus,
          pause: 'wait',
          resetCache: true,
          ...(this.#face === 'checkpoint-engine' && { link: this.#face }),
        },
      ],
      devices: { kind: 'cuda', indices: this.#gpus },
    });
    this.#ends.unshift(() => cluster.stop());
    for (const letter of ['A', 'B'] as const) await cluster.register(letter, this.#model(letter));
    return cluster;
  }

  /** What each worker says, or null where they have no such method. */
  async #ask(engine: VllmServer, method: string): Promise<unknown[] | null> {
    if (this.#face !== 'extension') return null;
    const { results } = (await engine.post('/collective_rpc', { method })) as { results: unknown[] };
    return results;
  }

  /** For who wants to see it among the logs. */
  async #noteHeld(when: string, engine: VllmServer): Promise<void> {
    if (logs !== undefined) this.#held[when] = await this.#ask(engine, 'held').catch(describe);
  }

  #model(letter: Letter): string {
    return `${this.#place.models}/${this.#settings.family}-${letter}`;
  }

  async #start(letter: Letter, role: string): Promise<VllmServer> {
    const { family, options = [] } = this.#settings;
    const name = `${this.#settings.name}-${role}`;
    const { PYTHONPATH: given } = process.env;
    const server = await VllmServer.start(
      { after: (end) => this.#ends.push(end) },
      {
        python: this.#place.python,
        model: this.#model(letter),
        options: [...common, ...attentionOptions(family), ...options, ...faces[this.#face]],
        environment: {
          ...plainKernels,
          // Engines that start at once would write the same files of compiled models.
          VLLM_CACHE_ROOT: `${this.#place.models}/cache-${name}`,
          PYTHONPATH: [...packages, ...(given === undefined ? [] : [given])].join(':'),
        },
      },
    );
    if (logs !== undefined) this.#ends.push(() => writeFileSync(`${logs}/${name}.log`, server.log));
    return server;
  }
}

/** Without what the first time has left in the prefix cache: fewer words at once are added up otherwise. */
async function again(engine: VllmServer): Promise<Answer[]> {
  await fetch(`${engine.endpoint}/reset_prefix_cache`, { method: 'POST' });
  return engine.answers();
}

function agreeing(some: readonly Answer[], others: readonly Answer[], steady: readonly boolean[]): number {
  return count(same(some, others).map((isSame, i) => isSame && steady[i]!));
}

/** Of each worker's hashes by the tensors' names. */
function differing(updated: readonly unknown[] | null, fresh: readonly unknown[] | null): string | null {
  if (updated === null || fresh === null) return null;
  const [some, others] = [byName(updated), byName(fresh)];
  const names = [...new Set([...some.keys(), ...others.keys()])];
  const unequal = names.filter((name) => some.get(name) !== others.get(name));
  if (unequal.length === 0) return `all ${names.length} equal`;
  const more = unequal.length > namedAtMost ? ', …' : '';
  return `${unequal.length} of ${names.length} differ: ${unequal.slice(0, namedAtMost).join(', ')}${more}`;
}

function byName(hashes: readonly unknown[]): Map<string, unknown> {
  const isAlone = hashes.length === 1;
  return new Map(
    hashes.flatMap((held, worker) =>
      Object.entries(held as object).map(([name, hash]) => [
        isAlone ? name : `worker ${worker} ${name}`,
        hash,
      ]),
    ),
  );
}

/** Why an update failed, and what the engine answers since. */
async function refusal(
  error: unknown,
  engine: VllmServer,
  expected: Readonly<Record<Letter, readonly Answer[]>>,
  steady: readonly boolean[],
): Promise<string> {
  const answers = await Promise.race([
    engine.answers().catch(() => null),
    setTimeout(answerSeconds * 1_000, null, { ref: false }),
  ]);
  const since =
    answers === null
      ? 'answers nothing'
      : agreeing(answers, expected.A, steady) === count(steady)
        ? 'answers as before'
        : 'gives other answers';
  return `refused, then ${since}: ${describe(error)}`;
}

/** A server that did not start, or has ended, has printed much; what ended a process of it is told by others, too. */
function causeOf(text: string): string {
  const told = / WARNING |Engine core initialization failed|EngineDeadError/;
  const errors = text.split('\n').flatMap((line) => {
    return told.test(line) ? [] : (/\b(?:\w+Error(?:: .+)?|CUDA error.+)$/.exec(line.trimEnd()) ?? []);
  });
  return (errors.at(-1) ?? text.trim().split('\n').at(-1)!).trim();
}
