import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, request } from 'undici';
import { AbortedError, DeadlineError, EngineError } from '../errors.ts';
import type { CallOptions, EngineClient } from './engine-client.ts';

/** Often enough that nobody notices, seldom enough that a loading engine does not either. */
const healthEveryMilliseconds = 200;
/** One answer of the health route; a hung one must not use up the whole wait. */
const healthTimeoutMilliseconds = 5_000;
/** Engines put tracebacks into error bodies; what tells stands in the first lines. */
const errorBodyLimit = 64 * 1024;

export interface VllmOptions {
  /** `http://host:port`, or `unix:/path/to/socket`. */
  readonly endpoint: string;
  /**
   * What the engine's worker extension calls its update method. It takes one argument, the map from device uuid to
   * worker-link address.
   */
  readonly updateMethod?: string;
}

/** The worker extension that speaks weightcast's own worker link. */
const defaultUpdateMethod = 'update_weights_from_weightcast';

/** vLLM's HTTP face, with `VLLM_SERVER_DEV_MODE=1`: `GET /health` and `POST /collective_rpc`. */
export class VllmClient implements EngineClient {
  readonly endpoint: string;
  readonly #origin: string;
  readonly #updateMethod: string;
  readonly #agent: Agent;

  constructor({ endpoint, updateMethod = defaultUpdateMethod }: VllmOptions) {
    this.endpoint = endpoint;
    const socketPath = endpoint.startsWith('unix:') ? endpoint.slice('unix:'.length) : undefined;
    this.#origin = socketPath === undefined ? endpoint.replace(/\/+$/, '') : 'http://localhost';
    this.#updateMethod = updateMethod;
    // No limits of its own: an update takes as long as the caller's options allow.
    this.#agent = new Agent({
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: socketPath === undefined ? {} : { socketPath },
    });
  }

  async ready({ timeoutMilliseconds, signal }: CallOptions): Promise<void> {
    const end = AbortSignal.timeout(timeoutMilliseconds);
    for (let last = 'no answer yet'; ; ) {
      const health = await this.#health(AbortSignal.any([signal, end]));
      if (health === null) return;
      if (signal.aborted) throw new AbortedError(`waiting for ${this.endpoint} was cancelled`);
      last = end.aborted ? last : health;
      if (end.aborted) {
        throw new DeadlineError(`engine ${this.endpoint} was not healthy within ${timeoutMilliseconds} ms: ${last}`);
      }
      await sleep(healthEveryMilliseconds, undefined, { signal: AbortSignal.any([signal, end]) }).catch(() => {});
    }
  }

  async update(links: Readonly<Record<string, string>>, { timeoutMilliseconds, signal }: CallOptions): Promise<void> {
    const end = AbortSignal.timeout(timeoutMilliseconds);
    const call = { method: this.#updateMethod, args: [links], timeout: Math.ceil(timeoutMilliseconds / 1000) };
    let status: number;
    let body: string;
    try {
      const answer = await request(`${this.#origin}/collective_rpc`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(call),
        dispatcher: this.#agent,
        signal: AbortSignal.any([signal, end]),
      });
      status = answer.statusCode;
      body = await answer.body.text();
    } catch (error) {
      if (signal.aborted) throw new AbortedError(`the update of ${this.endpoint} was cancelled`);
      if (end.aborted) throw new DeadlineError(`engine ${this.endpoint} did not update within ${timeoutMilliseconds} ms`);
      throw new EngineError(`engine ${this.endpoint} broke off the update: ${causeOf(error)}`, { cause: error });
    }
    if (status >= 400) {
      throw new EngineError(`engine ${this.endpoint} refused the update (HTTP ${status}): ${messageIn(body)}`);
    }
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  /** Null when healthy, else why not. */
  async #health(signal: AbortSignal): Promise<string | null> {
    try {
      const answer = await request(`${this.#origin}/health`, {
        dispatcher: this.#agent,
        signal: AbortSignal.any([signal, AbortSignal.timeout(healthTimeoutMilliseconds)]),
      });
      await answer.body.dump();
      return answer.statusCode === 200 ? null : `HTTP ${answer.statusCode}`;
    } catch (error) {
      return causeOf(error);
    }
  }
}

/** vLLM's own `{"error": {"message"}}`, FastAPI's `{"detail"}`, or plain text; on one line. */
function messageIn(body: string): string {
  let text = body.slice(0, errorBodyLimit);
  try {
    const parsed = JSON.parse(body) as { error?: { message?: unknown } | string; detail?: unknown };
    const told = typeof parsed.error === 'object' ? parsed.error.message : (parsed.error ?? parsed.detail);
    if (typeof told === 'string') text = told;
  } catch {
    // Not JSON: the text itself.
  }
  return text.trim().replace(/\s*\n\s*/g, ' | ') || 'no reason given';
}

function causeOf(error: unknown): string {
  const { cause, message, code } = error as Error & { code?: string };
  const inner = cause instanceof Error ? cause.message : '';
  return inner || message || code || 'no reason given';
}
