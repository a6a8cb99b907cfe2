import { EngineError } from '../errors.ts';
import { EngineRefusal, isCount } from './engine-answer.ts';
import type {
  CallOptions,
  EngineClient,
  EngineUpdate,
  PauseMode,
  Prompt,
  RankAnswers,
  ReportedState,
  WorldSize,
} from './engine-client.ts';
import type { EngineHttpOptions } from './engine-http.ts';
import { HttpEngine } from './http-engine.ts';
import { sglangAnswers } from './sglang-answers.ts';

/** How often an engine is asked whether it is idle after a pause that aborts all requests, and the time between two questions. */
const idleTries = 40;
const idleMilliseconds = 250;

/**
 * SGLang's routes. Its workers speak checkpoint-engine's link, or weightcast's if it was started by
 * `python -m weightcast.sglang`.
 */
export class SglangClient extends HttpEngine implements EngineClient {
  /** The last pause has aborted requests, which may still be on their way out. */
  #aborts = false;

  /**
   * Throws `UsageError` for an invalid endpoint. Not asked for `/health`: that may generate a token, and so fails while the
   * engine is paused or updates.
   */
  constructor(options: EngineHttpOptions) {
    super('sglang', '/ping', options);
  }

  /** It has no route that says whether it is paused or asleep. */
  async state(options: CallOptions): Promise<ReportedState> {
    const [version] = await Promise.all([this.#version(options), this.refuseOtherKind(options)]);
    return { isPaused: null, isSleeping: null, version };
  }

  /** Nor one that leads to its workers. */
  async linkProtocol(): Promise<null> {
    return null;
  }

  /** As it was started: with attention that is data-parallel, the replicas share the workers of tensor parallelism. */
  async worldSize(options: CallOptions): Promise<WorldSize | null> {
    const { tp_size, pp_size, dp_size, enable_dp_attention } = (await this.#serverInfo(options)) ?? {};
    if (!isCount(tp_size) || !isCount(pp_size) || !isCount(dp_size)) return null;
    const replica = tp_size * pp_size;
    return { replica, total: enable_dp_attention === true ? replica : replica * dp_size };
  }

  async survey(): Promise<never> {
    throw new EngineError(`engine ${this.endpoint} is an SGLang, whose workers do not say what they hold`);
  }

  async pause(mode: PauseMode, options: CallOptions): Promise<void> {
    this.#aborts = mode === 'abort';
    await this.http.call('POST', '/pause_generation', { mode }, options);
  }

  resume(options: CallOptions): Promise<void> {
    return this.http.call('POST', '/continue_generation', {}, options);
  }

  /** Flushes the cache within the update call: what is computed before has the old weights. */
  async update({ links, resetCache }: EngineUpdate, options: CallOptions): Promise<void> {
    if (resetCache && this.#aborts) await this.#untilIdle(options);
    this.#aborts = false;
    const body = { zmq_handles: links, flush_cache: resetCache };
    await this.http.call('POST', '/update_weights_from_ipc', body, options);
  }

  /** A scheduler that still holds an aborted request when the weights have changed cannot flush its cache, and ends. */
  async #untilIdle(options: CallOptions): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.http.call('POST', '/flush_cache', null, options);
      } catch (error) {
        if (!(error instanceof EngineRefusal)) throw error;
        if (error.status === 404) return;
        if (error.status !== 400 || tries === idleTries) throw error;
      }
      await this.http.wait(idleMilliseconds, options.signal);
    }
  }

  /**
   * The update has flushed the cache itself, and asked for nothing of what the engine stores elsewhere (HiCache). Older
   * ones have the route under another name.
   */
  async resetCaches(options: CallOptions): Promise<void> {
    const { hicache_storage_backend: storage } = (await this.#serverInfo(options)) ?? {};
    if (typeof storage !== 'string') return;
    try {
      await this.http.call('POST', '/hicache/storage-backend/clear', null, options);
    } catch (error) {
      if (!(error instanceof EngineRefusal) || error.status !== 404) throw error;
      await this.http.call('POST', '/clear_hicache_storage_backend', null, options);
    }
  }

  /** By its own route, which would abort all requests unless it is told not to. */
  async label(version: string, options: CallOptions): Promise<string | null> {
    const body = { new_version: version, abort_all_requests: false };
    const hasRoute = await this.http.tell('/update_weight_version', body, options);
    return hasRoute ? this.#version(options) : null;
  }

  answers(prompts: readonly Prompt[], options: CallOptions): Promise<RankAnswers[]> {
    return sglangAnswers(this.http, prompts, options);
  }

  /** Older ones have the route under another name. */
  async #version(options: CallOptions): Promise<string | null> {
    const version =
      (await this.http.valueOf('/model_info', 'weight_version', options)) ??
      (await this.http.valueOf('/get_model_info', 'weight_version', options));
    return typeof version === 'string' ? version : null;
  }

  async #serverInfo(options: CallOptions): Promise<Record<string, unknown> | null> {
    return (
      (await this.http.said('/server_info', options)) ?? (await this.http.said('/get_server_info', options))
    );
  }
}
