import { EngineError } from '../errors.ts';
import type {
  CallOptions,
  EngineClient,
  EngineUpdate,
  PauseMode,
  Readiness,
  ReportedState,
} from './engine-client.ts';
import { EngineHttp, type EngineHttpOptions } from './engine-http.ts';

/**
 * SGLang's routes. Its workers speak checkpoint-engine's link, or weightcast's if it was started by
 * `python -m weightcast.sglang`.
 */
export class SglangClient implements EngineClient {
  readonly #http: EngineHttp;

  /** Throws `UsageError` for an invalid endpoint. */
  constructor(options: EngineHttpOptions) {
    this.#http = new EngineHttp(options);
  }

  get endpoint(): string {
    return this.#http.endpoint;
  }

  /** Not `/health`: it may generate a token, and so fails while the engine is paused or updates. */
  ready(options: CallOptions): Promise<Readiness> {
    return this.#http.ready('/ping', options);
  }

  /** It has no route that says whether it is paused or asleep. */
  async state(options: CallOptions): Promise<ReportedState> {
    const version = await this.#http.valueOf('/model_info', 'weight_version', options);
    return { isPaused: null, isSleeping: null, version: typeof version === 'string' ? version : null };
  }

  /** Nor one that leads to its workers. */
  async linkProtocol(): Promise<null> {
    return null;
  }

  async survey(): Promise<never> {
    throw new EngineError(`engine ${this.endpoint} is an SGLang, whose workers do not say what they hold`);
  }

  pause(mode: PauseMode, options: CallOptions): Promise<void> {
    return this.#http.call('POST', '/pause_generation', { mode }, options);
  }

  resume(options: CallOptions): Promise<void> {
    return this.#http.call('POST', '/continue_generation', {}, options);
  }

  /** Flushes the cache within the update call: only there it is certain that no request runs. */
  update({ links, version, resetCache }: EngineUpdate, options: CallOptions): Promise<void> {
    const body = { zmq_handles: links, flush_cache: resetCache, weight_version: version };
    return this.#http.call('POST', '/update_weights_from_ipc', body, options);
  }

  close(): Promise<void> {
    return this.#http.close();
  }
}
