import type { Scope } from '../checkpoint/safetensors-files.ts';
import { EngineServer } from './engine-server.ts';

/** Python that has SGLang, weightcast as `pip install` leaves it, and the models of make_models.py. */
const { WEIGHTCAST_SGLANG_PYTHON, WEIGHTCAST_SGLANG_PACKAGES, WEIGHTCAST_SGLANG_MODELS } = process.env;

/** Why there is no engine to test with, or false. */
export const skip = WEIGHTCAST_SGLANG_PYTHON === undefined && 'no SGLang: run scripts/test-sglang.sh';

const prompts = [[5, 6, 7, 8], [100, 200, 300], [9], Array.from({ length: 80 }, (_, i) => i + 40)];

export type Answer = readonly [tokens: readonly number[], logProbabilities: readonly number[]];

export function model(name: string): string {
  return `${WEIGHTCAST_SGLANG_MODELS}/${name}`;
}

/** What SGLang needs on a CPU without its own kernels. */
const options = [
  '--device cpu --attention-backend torch_native --sampling-backend pytorch --grammar-backend none',
  '--skip-tokenizer-init --skip-server-warmup --disable-overlap-schedule',
  '--max-total-tokens 2048 --context-length 512',
].flatMap((line) => line.split(' '));

/** A real SGLang on the CPU, with weightcast as the plug-in that `pip install` makes it. */
export class SglangServer extends EngineServer {
  /** Resolves when it serves the model. `module`: what is started with Python. */
  static start(
    t: Scope,
    name: string,
    more: readonly string[] = [],
    module = 'sglang.launch_server',
  ): Promise<SglangServer> {
    const values = ['-m', module, '--model-path', model(name), ...options, ...more];
    return SglangServer.startServer(t, new SglangServer(), WEIGHTCAST_SGLANG_PYTHON!, values, {
      PYTHONPATH: WEIGHTCAST_SGLANG_PACKAGES!,
      SGLANG_USE_CPU_ENGINE: '1',
      SGLANG_CPU_OMP_THREADS_BIND: '0',
    });
  }

  /** Greedy completions and the log-probability of each token, by which two engines are told apart. */
  async answers(): Promise<Answer[]> {
    const answers: Answer[] = [];
    for (const input_ids of prompts) {
      const sampling_params = { max_new_tokens: 8, temperature: 0, ignore_eos: true };
      const asked = { input_ids, sampling_params, return_logprob: true };
      const { output_ids, meta_info } = (await this.post('/generate', asked)) as {
        output_ids: number[];
        meta_info: { output_token_logprobs: [number, number][] };
      };
      const probabilities = meta_info.output_token_logprobs.map(([value]) => Math.round(value * 100) / 100);
      answers.push([output_ids, probabilities]);
    }
    return answers;
  }
}
