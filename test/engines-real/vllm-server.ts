import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import type { ExpectedAnswer } from '../../src/index.ts';

/** Python that has vLLM, weightcast as `pip install` leaves it, and the models of make_models.py. */
const { WEIGHTCAST_VLLM_PYTHON, WEIGHTCAST_VLLM_PACKAGES, WEIGHTCAST_VLLM_MODELS } = process.env;

/** Why there is no engine to test with, or false. */
export const skip = WEIGHTCAST_VLLM_PYTHON === undefined && 'no vLLM: run scripts/test-engines.sh';

/** An idle machine of two cores takes half a minute to start vLLM. */
const startSeconds = 400;
const stopSeconds = 30;
const prompts = [
  'w5 w6 w7 w8',
  'w100 w200 w300',
  'w9',
  Array.from({ length: 80 }, (_, i) => `w${i + 40}`).join(' '),
];

export type Answer = readonly [text: string, logProbabilities: readonly number[]];

export interface TestScope {
  after(end: () => unknown): void;
}

export function model(name: string): string {
  return `${WEIGHTCAST_VLLM_MODELS}/${name}`;
}

export interface VllmOptions {
  /** A Python that has vLLM. */
  readonly python: string;
  /** Directory of the model. */
  readonly model: string;
  readonly options: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
}

/** On the CPU, one of make_models.py's. */
export function startOnCpu(t: TestScope, name: string, options: readonly string[] = []): Promise<VllmServer> {
  return VllmServer.start(t, {
    python: WEIGHTCAST_VLLM_PYTHON!,
    model: model(name),
    options: ['--enforce-eager', ...options],
    environment: {
      PYTHONPATH: WEIGHTCAST_VLLM_PACKAGES!,
      VLLM_CPU_KVCACHE_SPACE: '1',
      VLLM_CPU_OMP_THREADS_BIND: 'nobind',
    },
  });
}

/** A real vLLM, as its users start it, with development routes. */
export class VllmServer {
  readonly endpoint: string;
  readonly #process: ChildProcess;
  #log = '';

  private constructor(process: ChildProcess, port: number) {
    this.#process = process;
    this.endpoint = `http://127.0.0.1:${port}`;
    for (const stream of [process.stdout!, process.stderr!]) {
      stream.on('data', (data) => {
        this.#log += data;
      });
    }
  }

  /** Resolves when it serves the model. */
  static async start(
    t: TestScope,
    { python, model, options, environment }: VllmOptions,
  ): Promise<VllmServer> {
    const port = await freePort();
    const values = ['-m', 'vllm.entrypoints.cli.main', 'serve', model, '--served-model-name', 'm'];
    const place = ['--host', '127.0.0.1', '--port', `${port}`];
    const child = spawn(python, [...values, ...place, '--max-model-len', '256', ...options], {
      // Its workers are in its process group, and end with it.
      detached: true,
      env: { ...process.env, VLLM_SERVER_DEV_MODE: '1', VLLM_NO_USAGE_STATS: '1', ...environment },
    });
    const server = new VllmServer(child, port);
    t.after(() => server.stop());
    await server.#untilHealthy();
    return server;
  }

  /** What it has printed so far. */
  get log(): string {
    return this.#log;
  }

  /** Greedy completions and the log-probability of each token, by which two engines are told apart. */
  async answers(): Promise<Answer[]> {
    const answers: Answer[] = [];
    for (const prompt of prompts) {
      const asked = { model: 'm', prompt, max_tokens: 8, temperature: 0, logprobs: 1, ignore_eos: true };
      const { choices } = (await this.post('/v1/completions', asked)) as {
        choices: [{ text: string; logprobs: { token_logprobs: number[] } }];
      };
      const { text, logprobs } = choices[0];
      answers.push([text, logprobs.token_logprobs.map((value) => Math.round(value * 100) / 100)]);
    }
    return answers;
  }

  /** How probable it finds the tokens of prompts, as text and as numbers; what its cache holds counts too. */
  async promptLogprobs(): Promise<ExpectedAnswer[]> {
    const numbered = [5, 6, 7, 8, 9, 10, 11, 12];
    const answers: ExpectedAnswer[] = [];
    for (const prompt of [...prompts.filter((text) => text.includes(' ')), numbered]) {
      const asked = { model: 'm', prompt, max_tokens: 1, temperature: 0, prompt_logprobs: 0 };
      const { choices } = (await this.post('/v1/completions', asked)) as {
        choices: [{ prompt_logprobs: (Record<string, { logprob: number }> | null)[] }];
      };
      const entries = choices[0].prompt_logprobs.slice(1);
      answers.push({ prompt, logprobs: entries.map((entry) => Object.values(entry!)[0]!.logprob) });
    }
    return answers;
  }

  post(path: string, body: object = {}): Promise<unknown> {
    const init = {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    };
    return this.#ask(path, init);
  }

  get(path: string): Promise<unknown> {
    return this.#ask(path, {});
  }

  async stop(): Promise<void> {
    const { pid } = this.#process;
    if (this.#hasEnded()) return;
    const exited = once(this.#process, 'exit');
    this.#process.kill('SIGTERM');
    await Promise.race([exited, setTimeout(stopSeconds * 1_000, null, { ref: false })]);
    try {
      process.kill(-pid!, 'SIGKILL');
    } catch {
      // All of the group have ended.
    }
    await exited;
  }

  #hasEnded(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  async #ask(path: string, init: RequestInit): Promise<unknown> {
    const response = await fetch(`${this.endpoint}${path}`, init);
    const text = await response.text();
    assert.equal(response.status, 200, `${path}: ${text}`);
    return JSON.parse(text);
  }

  async #untilHealthy(): Promise<void> {
    const end = performance.now() + startSeconds * 1_000;
    for (;;) {
      if (this.#hasEnded()) assert.fail(`vLLM has ended: ${this.#log.slice(-30_000)}`);
      const healthy = await fetch(`${this.endpoint}/health`).then(
        ({ status }) => status === 200,
        () => false,
      );
      if (healthy) return;
      if (performance.now() > end) assert.fail(`vLLM is not up: ${this.#log.slice(-5_000)}`);
      await setTimeout(500);
    }
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}
