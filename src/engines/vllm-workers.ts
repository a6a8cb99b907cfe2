import { EngineError } from '../errors.ts';
import { EngineRefusal } from './engine-answer.ts';
import type { CallOptions } from './engine-client.ts';
import type { EngineHttp } from './engine-http.ts';
import { protocolVersion, understands } from './worker-link/messages.ts';
import { tracebackSummary } from './worker-link/rank-socket.ts';

/**
 * What an engine's own time limit is longer than ours. An engine that gives up first leaves replies of its workers in
 * a queue where the next call finds them.
 */
const engineSlackSeconds = 60;

/** In a session of vLLM's own, or through a worker extension. */
export type Face = 'session' | 'extension';

/** How an engine's workers take weights, and in which version of the worker link. */
export interface Told {
  readonly face: Face;
  readonly protocol: number;
}

/**
 * Asks first what all workers of this version answer, whichever face they have: of a call that fails in several workers,
 * vLLM takes the answer of the first one, and finds those of the others in the next call. That is why the question is asked
 * again where it fails, too: an earlier call may have failed. Rejects with `EngineError` if they speak a version that is
 * not understood, and as `EngineHttp.call` does.
 */
export async function askWorkers(http: EngineHttp, options: CallOptions): Promise<Told> {
  const told = (await askExtension(http, options)) ?? (await askExtension(http, options));
  if (told !== null && told !== 'nothing') return told;
  const ofSessions = await askForSessions(http, options);
  // Workers that have no answer speak the first version.
  return ofSessions === null ? { face: 'extension', protocol: 1 } : { face: 'session', protocol: ofSessions };
}

/** Null if the engine refuses the question. */
async function askExtension(http: EngineHttp, options: CallOptions): Promise<Told | 'nothing' | null> {
  const question = { method: 'weightcast_protocol', timeout: secondsOf(options) };
  let answer: Record<string, unknown>;
  try {
    answer = await http.object('POST', '/collective_rpc', question, options);
  } catch (error) {
    if (!isAnswer(error)) throw error;
    return null;
  }
  const results: unknown[] = Array.isArray(answer.results) ? answer.results : [];
  const told = results.map((result) => (result ?? {}) as { protocol?: unknown; face?: unknown });
  const [first, ...others] = told;
  if (typeof first?.protocol !== 'number') return 'nothing';
  const face = first.face === 'session' ? 'session' : 'extension';
  if (others.some(({ protocol }) => protocol !== first.protocol)) return { face, protocol: 1 };
  checkProtocol(http, first.protocol);
  return { face, protocol: first.protocol };
}

/**
 * Null if weightcast is not the engine's weight-transfer engine. Asked by the one route that changes nothing in an engine
 * that has another, or none; there it fails in every worker.
 */
async function askForSessions(http: EngineHttp, options: CallOptions): Promise<number | null> {
  const ask = (protocol: number) =>
    http.call('POST', '/init_weight_transfer_engine', { init_info: { protocol } }, options);
  try {
    await ask(protocolVersion);
    return protocolVersion;
  } catch (error) {
    if (!isAnswer(error)) throw error;
    const theirs = /speaks version .* this worker (\d+)/.exec(error.message)?.[1];
    if (theirs === undefined) return null;
    checkProtocol(http, Number(theirs));
    await ask(Number(theirs));
    return Number(theirs);
  }
}

/** Throws `EngineError`. */
function checkProtocol({ endpoint }: EngineHttp, theirs: number): void {
  if (understands(theirs)) return;
  const versions = `${theirs} of the worker link, this weightcast version ${protocolVersion}`;
  throw new EngineError(
    `the workers of engine ${endpoint} speak version ${versions}: install the same version of weightcast there`,
  );
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
  throw new EngineError(`${what}: ${tracebackSummary(cause)}`, { cause });
}

/** The engine's own time limit for a call to its workers. */
export function secondsOf({ timeoutMilliseconds }: CallOptions): number {
  return Math.ceil(timeoutMilliseconds / 1_000) + engineSlackSeconds;
}

/** That the engine has answered, if only to refuse. */
export function isAnswer(error: unknown): error is EngineRefusal {
  return error instanceof EngineRefusal;
}
