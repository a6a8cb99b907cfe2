import { Agent, type Dispatcher } from 'undici';
import {
  AbortedError,
  DeadlineError,
  describe,
  EngineError,
  UsageError,
  type WeightcastError,
} from '../errors.ts';
import type { Clock } from '../ports.ts';
import type { CallOptions, EngineClient } from './engine-client.ts';

/** Between two questions whether the engine is ready. */
const pollMilliseconds = 200;
/** One question: an engine that hangs is asked again. */
const healthMilliseconds = 5_000;
/**
 * What an engine's own time limit is longer than ours. An engine that gives up first leaves replies of its workers in
 * a queue where the next call finds them.
 */
const engineSlackSeconds = 60;
/** An answer is an error message or a short list; whatever else a server sends is not kept. */
const maxAnswerBytes = 1 << 20;

export interface VllmClientOptions {
  /** `http://host:port`, `https://…`, or `unix:/path/of/socket`. */
  readonly endpoint: string;
  readonly clock: Clock;
  /** The method of the engine's worker extension; by default the one that speaks our own worker link. */
  readonly updateMethod?: string;
}

interface Answer {
  readonly status: number;
  readonly text: string;
}

/** vLLM's development routes (`VLLM_SERVER_DEV_MODE=1`). */
export class VllmClient implements EngineClient {
  readonly endpoint: string;
  readonly #clock: Clock;
  readonly #updateMethod: string;
  readonly #origin: string;
  readonly #agent: Agent;

  /** Throws `UsageError` if the endpoint is none. */
  constructor(options: VllmClientOptions) {
    const { endpoint } = options;
    this.endpoint = endpoint;
    this.#clock = options.clock;
    this.#updateMethod = options.updateMethod ?? 'update_weights_from_weightcast';
    const socketPath = /^unix:(.+)$/.exec(endpoint)?.[1] ?? null;
    this.#origin = socketPath === null ? originOf(endpoint) : 'http://localhost';
    this.#agent = new Agent({
      // Every limit comes from the caller. No connection is used twice: the next request comes an update later, when
      // the engine may have just closed it.
      headersTimeout: 0,
      bodyTimeout: 0,
      pipelining: 0,
      connect: { timeout: 0, ...(socketPath !== null && { socketPath }) },
    });
  }

  async ready(options: CallOptions): Promise<void> {
    const deadline = this.#clock.now() + options.timeoutMilliseconds;
    let last = 'it was never asked';
    for (;;) {
      const left = deadline - this.#clock.now();
      if (left <= 0) {
        const waited = `${options.timeoutMilliseconds} ms`;
        throw new DeadlineError(`engine ${this.endpoint} is not ready after ${waited}: ${last}`);
      }
      const timeoutMilliseconds = Math.min(left, healthMilliseconds);
      try {
        await this.#call('GET', '/health', null, { timeoutMilliseconds, signal: options.signal });
        return;
      } catch (error) {
        if (error instanceof AbortedError) throw error;
        last = describe(error);
      }
      await this.#pause(Math.min(pollMilliseconds, deadline - this.#clock.now()), options.signal);
    }
  }

  async update(links: Readonly<Record<string, string>>, options: CallOptions): Promise<void> {
    const timeout = Math.ceil(options.timeoutMilliseconds / 1_000) + engineSlackSeconds;
    await this.#call(
      'POST',
      '/collective_rpc',
      { method: this.#updateMethod, args: [links], timeout },
      options,
    );
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  /** Resolves when the engine answered 200. */
  async #call(
    method: 'GET' | 'POST',
    path: string,
    body: object | null,
    options: CallOptions,
  ): Promise<void> {
    const what = `${method} ${path}`;
    const { timeoutMilliseconds, signal } = options;
    const controller = new AbortController();
    const end = (error: WeightcastError) => controller.abort(error);
    const late = `engine ${this.endpoint} did not answer ${what} within ${Math.ceil(timeoutMilliseconds)} ms`;
    const cancel = this.#clock.after(timeoutMilliseconds, () => end(new DeadlineError(late)));
    const onAbort = () => end(this.#aborted(signal));
    signal.addEventListener('abort', onAbort);
    try {
      if (signal.aborted) onAbort();
      const answer = await this.#exchange(method, path, body, controller.signal);
      if (answer.status !== 200) throw refusal(`engine ${this.endpoint} answered ${what} with`, answer);
    } catch (error) {
      if (controller.signal.aborted) throw controller.signal.reason;
      if (error instanceof EngineError) throw error;
      throw new EngineError(`engine ${this.endpoint} does not answer ${what}: ${describe(error)}`, {
        cause: error,
      });
    } finally {
      cancel();
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #exchange(
    method: 'GET' | 'POST',
    path: string,
    body: object | null,
    signal: AbortSignal,
  ): Promise<Answer> {
    const request: Dispatcher.RequestOptions = { origin: this.#origin, path, method, signal };
    if (body !== null) {
      request.headers = { 'content-type': 'application/json' };
      request.body = JSON.stringify(body);
    }
    const response = await this.#agent.request(request);
    const chunks: Buffer[] = [];
    let bytes = 0;
    for await (const chunk of response.body as AsyncIterable<Buffer>) {
      if (bytes < maxAnswerBytes) chunks.push(chunk.subarray(0, maxAnswerBytes - bytes));
      bytes += chunk.byteLength;
    }
    return { status: response.statusCode, text: Buffer.concat(chunks).toString('utf8') };
  }

  #pause(milliseconds: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        cancel();
        reject(this.#aborted(signal));
      };
      const cancel = this.#clock.after(Math.max(0, milliseconds), () => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      });
      if (signal.aborted) onAbort();
      else signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  #aborted(signal: AbortSignal): AbortedError {
    if (signal.reason instanceof AbortedError) return signal.reason;
    return new AbortedError(`the call to engine ${this.endpoint} was aborted: ${describe(signal.reason)}`);
  }
}

function originOf(endpoint: string): string {
  const url = URL.canParse(endpoint) ? new URL(endpoint) : null;
  if (url !== null && /^https?:$/.test(url.protocol) && url.pathname === '/') return url.origin;
  throw new UsageError(`"${endpoint}" is not an engine's endpoint: use http://host:port or unix:/path`);
}

/** One line of the engine's own words; all of them are its cause. */
function refusal(what: string, answer: Answer): EngineError {
  const words = messageIn(answer.text).trim();
  const lines = words.split('\n').filter((line) => line.trim() !== '');
  // Python ends a traceback with the line that says what went wrong.
  const line = words.startsWith('Traceback') ? lines.at(-1) : lines[0];
  const detail = line === undefined ? '' : `: ${line.trim().slice(0, 500)}`;
  return new EngineError(`${what} ${answer.status}${detail}`, { cause: words });
}

/** vLLM's `{error: {message}}`, older builds' `{message}`, FastAPI's `{detail}`, or the text as it is. */
function messageIn(text: string): string {
  try {
    const body = JSON.parse(text) as Record<string, unknown> | null;
    const error = body?.error as Record<string, unknown> | string | null | undefined;
    const nested = typeof error === 'object' ? error?.message : error;
    for (const candidate of [nested, body?.message, body?.detail]) {
      if (typeof candidate === 'string') return candidate;
    }
  } catch {
    // Not JSON: the text itself.
  }
  return text;
}
