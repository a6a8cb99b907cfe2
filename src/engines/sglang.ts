import type { CallOptions, EngineClient, EngineUpdate, PauseMode } from './engine-client.ts';
import { EngineHttp, type EngineHttpOptions } from './engine-http.ts';

/**
 * SGLang's routes. Which worker link its workers speak is up to how it was started: by itself it takes
 * checkpoint-engine's, started by `python -m weightcast.sglang` it takes weightcast's.
 */
export class SglangClient implements EngineClient {
  readonly #http: EngineHttp;

  /** Throws `UsageError` if the endpoint is none. */
  constructor(options: EngineHttpOptions) {
    this.#http = new EngineHttp(options);
  }

  get endpoint(): string {
    return this.#http.endpoint;
  }

  /** `/health` may generate a token, and so fails while the engine is paused or updates. */
  ready(options: CallOptions): Promise<void> {
    return this.#http.ready('/ping', options);
  }

  pause(mode: PauseMode, options: CallOptions): Promise<void> {
    return this.#http.call('POST', '/pause_generation', { mode }, options);
  }

  resume(options: CallOptions): Promise<void> {
    return this.#http.call('POST', '/continue_generation', {}, options);
  }

  /** The cache goes in the same call: only there no request is running for certain. */
  update({ links, version, resetCache }: EngineUpdate, options: CallOptions): Promise<void> {
    const body = { zmq_handles: links, flush_cache: resetCache, weight_version: version };
    return this.#http.call('POST', '/update_weights_from_ipc', body, options);
  }

  close(): Promise<void> {
    return this.#http.close();
  }
}
