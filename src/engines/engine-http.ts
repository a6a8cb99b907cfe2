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
import type { CallOptions } from './engine-client.ts';

/** Between two questions whether the engine is ready. */
const pollMilliseconds = 200;
/** One question: an engine that hangs is asked again. */
const readyMilliseconds = 5_000;
/** An answer is an error message or a short list; whatever else a server sends is not kept. */
const maxAnswerBytes = 1 << 20;

export interface EngineHttpOptions {
  /** `http://host:port`, `https://…`, or `unix:/path/of/socket`. */
  readonly endpoint: string;
  readonly clock: Clock;
  /** Sent as a bearer token, as OpenAI's clients do. */
  readonly apiKey?: string;
}

interface Answer {
  readonly status: number;
  readonly text: string;
}

/**
 * An engine's HTTP face, whichever engine it is: one call at a time with a time limit, and whatever goes wrong told in
 * one line with the engine's own words.
 */
export class EngineHttp {
  readonly endpoint: string;
  readonly #clock: Clock;
  readonly #origin: string;
  readonly #agent: Agent;
  readonly #headers: Readonly<Record<string, string>>;

  /** Throws `UsageError` if the endpoint is none. */
  constructor({ endpoint, clock, apiKey }: EngineHttpOptions) {
    this.endpoint = endpoint;
    this.#clock = clock;
    const socketPath = /^unix:(.+)$/.exec(endpoint)?.[1] ?? null;
    this.#origin = socketPath === null ? originOf(endpoint) : 'http://localhost';
    this.#headers = apiKey === undefined ? {} : { authorization: bearer(apiKey) };
    this.#agent = new Agent({
      // Every limit comes from the caller. No connection is used twice: the next request comes an update later, when
      // the engine may have just closed it.
      headersTimeout: 0,
      bodyTimeout: 0,
      pipelining: 0,
      connect: { timeout: 0, ...(socketPath !== null && { socketPath }) },
    });
  }

  /** Resolves when the engine answers `GET path` with success; asks again until the deadline. */
  async ready(path: string, options: CallOptions): Promise<void> {
    const deadline = this.#clock.now() + options.timeoutMilliseconds;
    let last: string | null = null;
    for (;;) {
      const left = deadline - this.#clock.now();
      if (left <= 0) {
        const waited = `${options.timeoutMilliseconds} ms`;
        throw new DeadlineError(
          `engine ${this.endpoint} is not ready after ${waited}: ${last ?? 'it was never asked'}`,
        );
      }
      const timeoutMilliseconds = Math.min(left, readyMilliseconds);
      try {
        await this.call('GET', path, null, { timeoutMilliseconds, signal: options.signal });
        return;
      } catch (error) {
        if (error instanceof AbortedError) throw error;
        // That the last question was cut short says less than what an earlier one was answered.
        const cutShort = error instanceof DeadlineError && timeoutMilliseconds < readyMilliseconds;
        if (last === null || !cutShort) last = describe(error);
      }
      await this.#pause(Math.min(pollMilliseconds, deadline - this.#clock.now()), options.signal);
    }
  }

  /**
   * Resolves when the engine answered 200, and has not said `"success": false` all the same. Rejects with
   * `EngineError` (all of the engine's words are its cause), `DeadlineError` or `AbortedError`.
   */
  async call(method: 'GET' | 'POST', path: string, body: object | null, options: CallOptions): Promise<void> {
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
      if (answer.status !== 200 || saysFailure(answer.text)) {
        throw refusal(`engine ${this.endpoint} answered ${what} with`, answer);
      }
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

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #exchange(
    method: 'GET' | 'POST',
    path: string,
    body: object | null,
    signal: AbortSignal,
  ): Promise<Answer> {
    const headers = { ...this.#headers, ...(body !== null && { 'content-type': 'application/json' }) };
    const request: Dispatcher.RequestOptions = { origin: this.#origin, path, method, headers, signal };
    if (body !== null) request.body = JSON.stringify(body);
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

function bearer(apiKey: string): string {
  // What a header can carry; the key itself is no part of a message.
  if (/^[\x21-\x7e]+$/.test(apiKey)) return `Bearer ${apiKey}`;
  throw new UsageError('an API key is printable ASCII without spaces; the one that was given is not');
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

/** SGLang's answers carry `success`, and vLLM's to a cache reset that it could not do is 200. */
function saysFailure(text: string): boolean {
  return parseObject(text)?.success === false;
}

/** vLLM's `{error: {message}}`, older builds' and SGLang's `{message}`, FastAPI's `{detail}`, or the text as it is. */
function messageIn(text: string): string {
  const body = parseObject(text);
  const error = body?.error as Record<string, unknown> | string | null | undefined;
  const nested = typeof error === 'object' ? error?.message : error;
  for (const candidate of [nested, body?.message, body?.detail]) {
    if (typeof candidate === 'string') return candidate;
  }
  return text;
}

/** Null unless the text is a JSON object. */
function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}
