import * as z from 'zod';
import { EngineError } from '../errors.ts';
import { EngineRefusal } from './engine-answer.ts';
import type { CallOptions } from './engine-client.ts';
import type { EngineHttp } from './engine-http.ts';
import { oldestProtocol } from './worker-link/messages.ts';
import { tracebackSummary } from './worker-link/rank-socket.ts';
import { checkProtocol, onlyProtocol, type WorkersSaid, workersOf } from './workers-said.ts';

/**
 * What an engine's own time limit is longer than ours. An engine that gives up first leaves replies of its workers in
 * a queue where the next call finds them.
 */
const engineSlackSeconds = 60;

/** What vLLM's configuration says of its workers (`GET /server_info?config_format=json`; seen with 0.32). */
const configuration = z.object({
  vllm_config: z.object({
    parallel_config: z.object({ worker_extension_cls: z.string() }),
    weight_transfer_config: z.object({ backend: z.string() }).nullish(),
  }),
});

/** Of checkpoint-engine, `checkpoint_engine.worker.VllmColocateWorkerExtension`. */
const foreignExtension = /^checkpoint_engine\./;

/**
 * Rejects with `EngineError` where the engine's configuration says that its workers have nothing of weightcast: then they are
 * to be asked nothing. In several workers the question fails, of which vLLM takes the answer of the first one, and finds those
 * of the others in its next calls, until it is started again.
 */
export async function refuseWithoutWeightcast(http: EngineHttp, options: CallOptions): Promise<void> {
  const patience = options.timeoutMilliseconds;
  const info = await http.said('/server_info?config_format=json', options, patience);
  const said = configuration.safeParse(info).data;
  if (said === undefined) return;
  const { parallel_config, weight_transfer_config } = said.vllm_config;
  const extension = parallel_config.worker_extension_cls;
  if (weight_transfer_config?.backend === 'weightcast') return;
  const engine = `the workers of engine ${http.endpoint}`;
  if (foreignExtension.test(extension))
    throw new EngineError(
      `${engine} are those of checkpoint-engine (${extension}): set link "checkpoint-engine" (--link checkpoint-engine)`,
    );
  if (extension === '')
    throw new EngineError(
      `${engine} have nothing of weightcast: start it with --weight-transfer-config '{"backend": "weightcast"}', or with --worker-extension-cls weightcast.worker.VllmWorkerExtension`,
    );
}

/**
 * Asks what all workers answer, whether weightcast is the engine's worker extension or its weight-transfer engine. The question
 * is asked again where it fails: another call may have left its failure. Rejects with `EngineError` if they speak a version
 * that is not understood, and as `EngineHttp.call` does.
 */
export async function askWorkers(http: EngineHttp, options: CallOptions): Promise<WorkersSaid> {
  const results = (await protocolAnswers(http, options)) ?? (await protocolAnswers(http, options));
  if (results === null) await refuseWithoutWeightcast(http, options);
  if (results?.some((result) => (result as { face?: unknown } | null)?.face === 'session')) {
    throw new EngineError(
      `the workers of engine ${http.endpoint} have an earlier build of weightcast, which takes weights by vLLM's routes for sessions: install the same version of weightcast there`,
    );
  }
  // Workers that have no answer, or not the same, take what the first version has.
  const said = workersOf(results ?? []) ?? onlyProtocol(oldestProtocol);
  checkProtocol(http.endpoint, said.protocol);
  return said;
}

/** Null if the engine refuses the question. */
async function protocolAnswers(http: EngineHttp, options: CallOptions): Promise<readonly unknown[] | null> {
  const question = { method: 'weightcast_protocol', timeout: secondsOf(options) };
  try {
    const answer = await http.answerTo('POST', '/collective_rpc', question, options);
    return Array.isArray(answer?.results) ? answer.results : [];
  } catch (error) {
    if (!isAnswer(error)) throw error;
    return null;
  }
}

/**
 * Has every worker do something. Rejects as `EngineHttp.call` does, and with `EngineError` for one whose answer is an
 * error: weightcast's do not raise,
 * which would leave answers in vLLM's queues that the next call finds. checkpoint-engine's do.
 */
export async function callWorkers(
  http: EngineHttp,
  method: string,
  args: readonly unknown[],
  options: CallOptions,
): Promise<void> {
  const call = { method, args, timeout: secondsOf(options) };
  const answer = await http.answerTo('POST', '/collective_rpc', call, options);
  const answers = (Array.isArray(answer?.results) ? answer.results : []) as ({
    readonly error?: unknown;
  } | null)[];
  const failed = answers.findIndex((answer) => typeof answer?.error === 'string');
  if (failed < 0) return;
  const cause = answers[failed]!.error as string;
  const what = `worker ${failed} of engine ${http.endpoint} failed in ${method}`;
  throw new WorkerFailure(`${what}: ${tracebackSummary(cause)}`, { cause });
}

/** A worker's answer is an error. */
export class WorkerFailure extends EngineError {}

/** The engine's own time limit for a call to its workers. */
export function secondsOf({ timeoutMilliseconds }: CallOptions): number {
  return Math.ceil(timeoutMilliseconds / 1_000) + engineSlackSeconds;
}

/** That the engine has answered, if only to refuse. */
export function isAnswer(error: unknown): error is EngineRefusal {
  return error instanceof EngineRefusal;
}
