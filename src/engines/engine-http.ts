import { Agent, type Dispatcher } from 'undici';
import { AbortedError, DeadlineError, describe, EngineError, type WeightcastError } from '../errors.ts';
import type { Clock, Logger } from '../ports.ts';
import { baseOf, checkAddress, socketPathOf } from './endpoint.ts';
import { type EngineAnswer, EngineRefusal, isSuccess, parseObject, refusalOf } from './engine-answer.ts';
import type { CallOptions, Readiness } from './engine-client.ts';

/** Between two polls of the health route. */
const pollMilliseconds = 200;
/** Timeout of one poll: an engine that hangs is polled again. */
const readyMilliseconds = 5_000;
/** An engine that does not say what it knows of itself within this time does not know it. */
const questionMilliseconds = 5_000;
/** How long a connection waits for the next request of the same update. Servers that close theirs sooner announce it. */
const reuseMilliseconds = 500;
/** Answers are error messages or short lists; the rest of a longer one, which may have no end, is not read. */
const maxAnswerBytes = 1 << 20;
/** Answers that are asked for because of what is in them: log-probabilities of a prompt. */
const maxObjectBytes = 1 << 24;

export interface EngineHttpOptions {
  /** `http://host:port`, `https://…`, with the prefix of a proxy, or `unix:/path/of/socket`. */
  readonly endpoint: string;
  readonly clock: Clock;
  /** Sent as a bearer token. */
  readonly apiKey?: string;
  /** Where it notes what an engine does not say of itself. */
  readonly log?: Logger;
}

type Method = 'GET' | 'POST';

interface Request {
  readonly method: Method;
  readonly path: string;
  readonly body: object | null;
  readonly headers?: Readonly<Record<string, string>>;
  /** How much of the answer is kept. */
  readonly mostBytes: number;
}

/** HTTP calls to an engine of either kind, each with a timeout. Errors are one line, with the engine's own message. */
export class EngineHttp {
  readonly endpoint: string;
  readonly #clock: Clock;
  readonly #base: ReturnType<typeof baseOf>;
  readonly #agent: Agent;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #log: Logger | null;

  /** Throws `UsageError` for an invalid endpoint or API key. */
  constructor({ endpoint, clock, apiKey, log }: EngineHttpOptions) {
    checkAddress(endpoint, apiKey);
    this.endpoint = endpoint;
    this.#clock = clock;
    this.#log = log ?? null;
    const socketPath = socketPathOf(endpoint);
    this.#base = baseOf(endpoint);
    this.#headers = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
    this.#agent = new Agent({
      // The caller sets the timeout. An update asks much at once, and connecting costs more than a question. By the next
      // update the engine may just be closing a connection, so none is kept for it.
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: reuseMilliseconds,
      keepAliveMaxTimeout: reuseMilliseconds,
      connect: { timeout: 0, ...(socketPath !== null && { socketPath }) },
    });
  }

  /**
   * Polls `GET path` until it succeeds or the deadline passes. Where there is no such route, `onMissing` may reject with
   * why there will be none. Rejects with `EngineError` at once if the engine's certificate is not trusted.
   */
  async ready(
    path: string,
    options: CallOptions,
    onMissing: (error: EngineRefusal) => Promise<void>,
  ): Promise<Readiness> {
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
        if (error instanceof AbortedError || isDistrusted(error)) throw error;
        // One that is only slow has not ended.
        wasDown ||= error instanceof EngineError;
        // A last poll that the deadline cut short says less than the error of an earlier one.
        const cutShort = error instanceof DeadlineError && timeoutMilliseconds < readyMilliseconds;
        if (last === null || !cutShort) last = describe(error);
        if (error instanceof EngineRefusal && error.status === 404) await onMissing(error);
      }
      await this.wait(Math.min(pollMilliseconds, deadline - this.#clock.now()), options.signal);
    }
  }

  /**
   * Resolves when the engine answers 200 without `"success": false`. Rejects with `EngineRefusal` (its cause is the whole
   * answer of the engine), `EngineError` if there is no answer, `DeadlineError` or `AbortedError`.
   */
  async call(method: Method, path: string, body: object | null, options: CallOptions): Promise<void> {
    await this.answerTo(method, path, body, options);
  }

  /** The same, with what the engine says; null unless that is a JSON object. */
  async answerTo(
    method: Method,
    path: string,
    body: object | null,
    options: CallOptions,
  ): Promise<Record<string, unknown> | null> {
    const answer = await this.#ask({ method, path, body, mostBytes: maxAnswerBytes }, options);
    if (!isSuccess(answer)) throw this.#refusal(method, path, answer);
    return parseObject(answer.text);
  }

  /** The same for a route that older engines do not have: resolves with false if this one does not. */
  async tryCall(method: Method, path: string, body: object | null, options: CallOptions): Promise<boolean> {
    const answer = await this.#ask({ method, path, body, mostBytes: maxAnswerBytes }, options);
    if (answer.status === 404) return false;
    if (!isSuccess(answer)) throw this.#refusal(method, path, answer);
    return true;
  }

  /** Tells the engine what it may refuse; whether it did is asked after that. Resolves with false if it has no such route. */
  async tell(path: string, body: object, options: CallOptions): Promise<boolean> {
    try {
      return await this.tryCall('POST', path, body, options);
    } catch (error) {
      if (!(error instanceof EngineRefusal)) throw error;
      this.#log?.debug({ endpoint: this.endpoint, path, error: error.message }, 'the engine refuses');
      return true;
    }
  }

  /** What the engine answers, a JSON object. Rejects as {@link call} does, and with `EngineRefusal` if it is none. */
  async object(
    method: Method,
    path: string,
    body: object | null,
    options: CallOptions,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Record<string, unknown>> {
    const answer = await this.#ask({ method, path, body, headers, mostBytes: maxObjectBytes }, options);
    const object = isSuccess(answer) ? parseObject(answer.text) : null;
    if (object === null) throw this.#refusal(method, path, answer);
    return object;
  }

  /**
   * What the engine says of itself: a JSON object, or null if it does not say, for whatever reason, within `patience`: by
   * default a few seconds. Rejects with `AbortedError` only.
   */
  async said(
    path: string,
    options: CallOptions,
    patience = questionMilliseconds,
  ): Promise<Record<string, unknown> | null> {
    const timeoutMilliseconds = Math.min(options.timeoutMilliseconds, patience);
    try {
      return await this.object('GET', path, null, { ...options, timeoutMilliseconds });
    } catch (error) {
      if (error instanceof AbortedError) throw error;
      this.#log?.debug({ endpoint: this.endpoint, path, error: describe(error) }, 'the engine does not say');
      return null;
    }
  }

  /** One value of that; null if the engine does not say. */
  async valueOf(path: string, key: string, options: CallOptions): Promise<unknown> {
    return (await this.said(path, options))?.[key] ?? null;
  }

  async #ask(request: Request, options: CallOptions): Promise<EngineAnswer> {
    const what = `${request.method} ${request.path}`;
    const { timeoutMilliseconds, signal } = options;
    const controller = new AbortController();
    const end = (error: WeightcastError) => controller.abort(error);
    const late = `engine ${this.endpoint} did not answer ${what} within ${Math.ceil(timeoutMilliseconds)} ms`;
    const cancel = this.#clock.after(timeoutMilliseconds, () => end(new DeadlineError(late)));
    const onAbort = () => end(this.#aborted(signal));
    signal.addEventListener('abort', onAbort);
    // undici hears of an abort only when it is connected, which a network that drops packets delays by minutes.
    const aborted = new Promise<never>((_, reject) => {
      controller.signal.addEventListener('abort', () => reject(controller.signal.reason), { once: true });
    });
    aborted.catch(() => {});
    try {
      if (signal.aborted) onAbort();
      return await Promise.race([this.#exchange(request, controller.signal), aborted]);
    } catch (error) {
      if (controller.signal.aborted) throw controller.signal.reason;
      const hint = isDistrust(error) ? `: ${trustHint}` : '';
      throw new EngineError(`engine ${this.endpoint} did not answer ${what}: ${describe(error)}${hint}`, {
        cause: error,
      });
    } finally {
      cancel();
      signal.removeEventListener('abort', onAbort);
    }
  }

  #refusal(method: Method, path: string, answer: EngineAnswer): EngineRefusal {
    return refusalOf(`engine ${this.endpoint} answered ${method} ${path} with`, answer);
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #exchange(request: Request, signal: AbortSignal): Promise<EngineAnswer> {
    const { method, path, body, mostBytes } = request;
    const headers = {
      ...this.#headers,
      ...(body !== null && { 'content-type': 'application/json' }),
      ...request.headers,
    };
    const { origin, prefix } = this.#base;
    const sent: Dispatcher.RequestOptions = { origin, path: prefix + path, method, headers, signal };
    if (body !== null) sent.body = JSON.stringify(body);
    const response = await this.#agent.request(sent);
    const chunks: Buffer[] = [];
    let bytes = 0;
    for await (const chunk of response.body as AsyncIterable<Buffer>) {
      chunks.push(chunk.subarray(0, mostBytes - bytes));
      bytes += chunk.byteLength;
      if (bytes >= mostBytes) break;
    }
    const type = String(response.headers['content-type'] ?? '')
      .replace(/\s*;.*$/s, '')
      .toLowerCase();
    return { status: response.statusCode, type, text: Buffer.concat(chunks).toString('utf8') };
  }

  /** Between two calls. Rejects with `AbortedError`. */
  wait(milliseconds: number, signal: AbortSignal): Promise<void> {
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

const trustHint =
  'give the certificate of whoever signed it in NODE_EXTRA_CA_CERTS (a PEM file) where the cluster is started';

/** What OpenSSL and Node say of a certificate that cannot be relied on: it will be the same a moment later. */
const distrust = /^(CERT_|ERR_TLS_CERT|UNABLE_TO_|(DEPTH_ZERO_)?SELF_SIGNED_CERT|HOSTNAME_MISMATCH)/;

function isDistrust(error: unknown): boolean {
  return distrust.test(String((error as { code?: unknown } | null)?.code));
}

function isDistrusted(error: unknown): boolean {
  return error instanceof EngineError && isDistrust(error.cause);
}
