import type { CallOptions, EngineClient, EngineUpdate, LinkKind, PauseMode } from './engine-client.ts';
import { EngineHttp, type EngineHttpOptions } from './engine-http.ts';

/**
 * What an engine's own time limit is longer than ours. An engine that gives up first leaves replies of its workers in
 * a queue where the next call finds them.
 */
const engineSlackSeconds = 60;

/** The method of the worker extension, `--worker-extension-cls`. */
const updateMethods = {
  /** `weightcast.worker.VllmWorkerExtension`, in python/. */
  weightcast: 'update_weights_from_weightcast',
  /** `checkpoint_engine.worker.VllmColocateWorkerExtension`. */
  'checkpoint-engine': 'update_weights_from_ipc',
} as const satisfies Record<LinkKind, string>;

export interface VllmClientOptions extends EngineHttpOptions {
  /** Which worker extension the engine was started with. Default: weightcast's own. */
  readonly link?: LinkKind;
}

/** vLLM's development routes (`VLLM_SERVER_DEV_MODE=1`). */
export class VllmClient implements EngineClient {
  readonly #http: EngineHttp;
  readonly #updateMethod: string;

  /** Throws `UsageError` if the endpoint is none. */
  constructor(options: VllmClientOptions) {
    this.#http = new EngineHttp(options);
    this.#updateMethod = updateMethods[options.link ?? 'weightcast'];
  }

  get endpoint(): string {
    return this.#http.endpoint;
  }

  ready(options: CallOptions): Promise<void> {
    return this.#http.ready('/health', options);
  }

  pause(mode: PauseMode, options: CallOptions): Promise<void> {
    return this.#http.call('POST', `/pause?mode=${mode}`, null, options);
  }

  resume(options: CallOptions): Promise<void> {
    return this.#http.call('POST', '/resume', null, options);
  }

  async update({ links, resetCache }: EngineUpdate, options: CallOptions): Promise<void> {
    const timeout = Math.ceil(options.timeoutMilliseconds / 1_000) + engineSlackSeconds;
    const body = { method: this.#updateMethod, args: [links], timeout };
    await this.#http.call('POST', '/collective_rpc', body, options);
    if (resetCache) await this.#http.call('POST', '/reset_prefix_cache', null, options);
  }

  close(): Promise<void> {
    return this.#http.close();
  }
}
