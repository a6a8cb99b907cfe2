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
import type { CallOptions, Readiness } from './engine-client.ts';

/** Between two polls of the health route. */
const pollMilliseconds = 200;
/** Timeout of one poll: an engine that hangs is polled again. */
const readyMilliseconds = 5_000;
/** Answers are error messages or short lists; the rest of a longer one is discarded. */
const maxAnswerBytes = 1 << 20;

export interface EngineHttpOptions {
  /** `http://host:port`, `https://…`, or `unix:/path/of/socket`. */
  readonly endpoint: string;
  readonly clock: Clock;
  /** Sent as a bearer token. */
  readonly apiKey?: string;
}

type Method = 'GET' | 'POST';

interface Answer {
  readonly status: number;
  readonly text: string;
}

/** HTTP calls to an engine of either kind, each with a timeout. Errors are one line, with the engine's own message. */
export class EngineHttp {
  readonly endpoint: string;
  readonly #clock: Clock;
  readonly #origin: string;
  readonly #agent: Agent;
  readonly #headers: Readonly<Record<string, string>>;

  /** Throws `UsageError` for an invalid endpoint or API key. */
  constructor({ endpoint, clock, apiKey }: EngineHttpOptions) {
    checkAddress(endpoint, apiKey);
    this.endpoint = endpoint;
    this.#clock = clock;
    const socketPath = socketPathOf(endpoint);
    this.#origin = socketPath === null ? new URL(endpoint).origin : 'http://localhost';
    this.#headers = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
    this.#agent = new Agent({
      // The caller sets the timeout. Connections are not reused: by the next request, an update later, the engine may
      // just be closing them.
      headersTimeout: 0,
      bodyTimeout: 0,
      pipelining: 0,
      connect: { timeout: 0, ...(socketPath !== null && { socketPath }) },
    });
  }

  /** Polls `GET path` until it succeeds or the deadline passes. */
  async ready(path: string, options: CallOptions): Promise<Readiness> {
    let wasDown = false;
    const deadline = this.#clock.now() + options.timeoutMilliseconds;
    let last: string | null = null;
    for (;;) {
      const left = deadline - this.#clock.now();
      if (left <= 0) {
        const waited = `${options.timeoutMilliseconds} ms`;
        throw new DeadlineError(
          `engine ${this.endpoint} is not ready after ${waited}: ${last ?? 'there was no time to ask'}`,
        );
      }
      const timeoutMilliseconds = Math.min(left, readyMilliseconds);
      try {
        await this.call('GET', path, null, { timeoutMilliseconds, signal: options.signal });
        return { wasDown };
      } catch (error) {
        if (error instanceof AbortedError) throw error;
        // One that is only slow has not ended.
        wasDown ||= error instanceof EngineError;
        // A last poll that the deadline cut short says less than the error of an earlier one.
        const cutShort = error instanceof DeadlineError && timeoutMilliseconds < readyMilliseconds;
        if (last === null || !cutShort) last = describe(error);
      }
      await this.#pause(Math.min(pollMilliseconds, deadline - this.#clock.now()), options.signal);
    }
  }

  /**
   * Resolves when the engine answers 200 without `"success": false`. Rejects with `EngineError` (its cause is the whole
   * answer of the engine), `DeadlineError` or `AbortedError`.
   */
  async call(method: Method, path: string, body: object | null, options: CallOptions): Promise<void> {
    const answer = await this.#ask(method, path, body, options);
    if (answer.status !== 200 || reportsFailure(answer.text)) throw this.#refusal(method, path, answer);
  }

  /** The same, with the JSON object that the engine answers; null if it answers with something else. */
  async answerOf(
    method: Method,
    path: string,
    body: object | null,
    options: CallOptions,
  ): Promise<Record<string, unknown> | null> {
    const answer = await this.#ask(method, path, body, options);
    if (answer.status !== 200 || reportsFailure(answer.text)) throw this.#refusal(method, path, answer);
    return parseObject(answer.text);
  }

  /** The same for a route that older engines do not have: resolves with false if this one does not. */
  async tryCall(method: Method, path: string, body: object | null, options: CallOptions): Promise<boolean> {
    const answer = await this.#ask(method, path, body, options);
    if (answer.status === 404) return false;
    if (answer.status !== 200 || reportsFailure(answer.text)) throw this.#refusal(method, path, answer);
    return true;
  }

  /** One value of a JSON answer; null if the engine has no such route, or answers without this value. */
  async valueOf(path: string, key: string, options: CallOptions): Promise<unknown> {
    const answer = await this.#ask('GET', path, null, options);
    if (answer.status === 404) return null;
    if (answer.status !== 200) throw this.#refusal('GET', path, answer);
    return parseObject(answer.text)?.[key] ?? null;
  }

  async #ask(method: Method, path: string, body: object | null, options: CallOptions): Promise<Answer> {
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
      return await this.#exchange(method, path, body, controller.signal);
    } catch (error) {
      if (controller.signal.aborted) throw controller.signal.reason;
      throw new EngineError(`engine ${this.endpoint} did not answer ${what}: ${describe(error)}`, {
        cause: error,
      });
    } finally {
      cancel();
      signal.removeEventListener('abort', onAbort);
    }
  }

  #refusal(method: Method, path: string, answer: Answer): EngineError {
    return refusal(`engine ${this.endpoint} answered ${method} ${path} with`, answer);
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #exchange(method: Method, path: string, body: object | null, signal: AbortSignal): Promise<Answer> {
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

function socketPathOf(endpoint: string): string | null {
  return /^unix:(.+)$/.exec(endpoint)?.[1] ?? null;
}

/** Linux allows no longer path for a socket. */
const longestSocketPath = 107;

/** Throws a UsageError for an invalid endpoint or API key. Neither a password nor a key is in it. */
export function checkAddress(endpoint: string, apiKey?: string): void {
  // The characters that a header can carry.
  if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey))
    throw new UsageError('the API key contains characters other than printable ASCII without spaces');
  const socketPath = socketPathOf(endpoint);
  if (socketPath !== null) {
    if (Buffer.byteLength(socketPath) <= longestSocketPath && !socketPath.includes('\0')) return;
    throw new UsageError(`invalid endpoint: a socket's path has at most ${longestSocketPath} bytes`);
  }
  const url = URL.canParse(endpoint) ? new URL(endpoint) : null;
  if (url !== null && (url.username !== '' || url.password !== ''))
    throw new UsageError(
      `invalid endpoint at ${url.host}: a user and a password in it are not sent; use apiKey`,
    );
  const isOrigin =
    url !== null &&
    /^https?:$/.test(url.protocol) &&
    url.pathname === '/' &&
    url.search === '' &&
    url.hash === '';
  if (!isOrigin) throw new UsageError(`invalid endpoint "${endpoint}": use http://host:port or unix:/path`);
}

/** An error with one line of the engine's answer; its cause is the whole answer. */
function refusal(what: string, answer: Answer): EngineError {
  const message = messageIn(answer.text).trim();
  const lines = message.split('\n').filter((line) => line.trim() !== '');
  // Python's traceback ends with the error message.
  const line = message.startsWith('Traceback') ? lines.at(-1) : lines[0];
  const detail = line === undefined ? '' : `: ${line.trim().slice(0, 500)}`;
  return new EngineError(`${what} ${answer.status}${detail}`, { cause: message });
}

/** SGLang's answers have `success`, as does vLLM's to a failed cache reset, which is a 200 too. */
function reportsFailure(text: string): boolean {
  return parseObject(text)?.success === false;
}

/** vLLM's `{error: {message}}`, older builds' and SGLang's `{message}`, FastAPI's `{detail}`, otherwise the text. */
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
