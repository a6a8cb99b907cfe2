import { fileURLToPath } from 'node:url';
import type { ExpectedAnswer } from '../../src/index.ts';
import { packageRoot } from '../../src/package-root.ts';
import type { Scope } from '../checkpoint/safetensors-files.ts';
import { EngineServer } from './engine-server.ts';

/** Python that has vLLM, weightcast as `pip install` leaves it, and the models of make_models.py. */
const { WEIGHTCAST_VLLM_PYTHON, WEIGHTCAST_VLLM_PACKAGES, WEIGHTCAST_VLLM_MODELS } = process.env;

/** Why there is no engine to test with, or false. */
export const skip = WEIGHTCAST_VLLM_PYTHON === undefined && 'no vLLM: run scripts/test-engines.sh';

const prompts = [
  'w5 w6 w7 w8',
  'w100 w200 w300',
  'w9',
  Array.from({ length: 80 }, (_, i) => `w${i + 40}`).join(' '),
];

export type Answer = readonly [text: string, logProbabilities: readonly number[]];

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
export function startOnCpu(t: Scope, name: string, options: readonly string[] = []): Promise<VllmServer> {
  return VllmServer.start(t, {
    python: WEIGHTCAST_VLLM_PYTHON!,
    model: model(name),
    options: ['--enforce-eager', ...options],
    environment: {
      // With what spoils updates on purpose (spoiler.py).
      PYTHONPATH: `${WEIGHTCAST_VLLM_PACKAGES}:${fileURLToPath(new URL('test/engines-real', packageRoot))}`,
      VLLM_CPU_KVCACHE_SPACE: '1',
      VLLM_CPU_OMP_THREADS_BIND: 'nobind',
    },
  });
}

/** A real vLLM, as its users start it, with development routes. */
export class VllmServer extends EngineServer {
  /** Resolves when it serves the model. */
  static start(t: Scope, { python, model, options, environment }: VllmOptions): Promise<VllmServer> {
    const values = ['-m', 'vllm.entrypoints.cli.main', 'serve', model, '--served-model-name', 'm'];
    const settings = ['--max-model-len', '256', ...options];
    return VllmServer.startServer(t, new VllmServer(), python, [...values, ...settings], {
      VLLM_SERVER_DEV_MODE: '1',
      VLLM_NO_USAGE_STATS: '1',
      ...environment,
    });
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
}
