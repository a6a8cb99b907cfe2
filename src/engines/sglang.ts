import { EngineError } from '../errors.ts';
import { EngineRefusal, isCount } from './engine-answer.ts';
import type {
  CallOptions,
  EngineClient,
  EngineUpdate,
  LinkKind,
  PauseMode,
  Prompt,
  RankAnswers,
  ReportedState,
  WorldSize,
} from './engine-client.ts';
import type { EngineHttpOptions } from './engine-http.ts';
import { HttpEngine } from './http-engine.ts';
import { sglangAnswers } from './sglang-answers.ts';
import { checkProtocol, type WorkersSaid, workersOf } from './workers-said.ts';

/** How often an engine is asked whether it is idle after a pause that aborts all requests, and the time between two questions. */
const idleTries = 40;
const idleMilliseconds = 250;

export interface SglangClientOptions extends EngineHttpOptions {
  /** What the engine's workers speak. Default: weightcast's own link. */
  readonly link?: LinkKind;
  /** The draft model takes the weights after the target model. Default: false. */
  readonly hasDraftModel?: boolean;
}

/**
 * SGLang's routes. Its workers speak checkpoint-engine's link, or weightcast's if it was started by
 * `python -m weightcast.sglang`.
 */
export class SglangClient extends HttpEngine implements EngineClient {
  readonly #link: LinkKind;
  readonly #hasDraftModel: boolean;
  /** The last pause has aborted requests, which may still be on their way out. */
  #aborts = false;
  /** The last update has flushed the cache. */
  #hasFlushed = false;

  /**
   * Throws `UsageError` for an invalid endpoint. Not asked for `/health`: that may generate a token, and so fails while the
   * engine is paused or updates.
   */
  constructor(options: SglangClientOptions) {
    super('sglang', '/ping', options);
    this.#link = options.link ?? 'weightcast';
    this.#hasDraftModel = options.hasDraftModel ?? false;
  }

  /** It has no route that says whether it is paused or asleep. */
  async state(options: CallOptions): Promise<ReportedState> {
    const [version] = await Promise.all([this.#version(options), this.refuseOtherKind(options)]);
    return { isPaused: null, isSleeping: null, version };
  }

  /** As weightcast's plug-in has added to what schedulers say of themselves, the first of each data-parallel rank. */
  async workers(options: CallOptions): Promise<WorkersSaid | null> {
    const info = await this.#serverInfo(options);
    this.#checkReplicas(info);
    const states: { weightcast?: unknown }[] = Array.isArray(info?.internal_states)
      ? info.internal_states
      : [];
    const said = workersOf(states.map((state) => state?.weightcast));
    // Another link than weightcast's is SGLang's own affair.
    if (said === null || this.#link !== 'weightcast') return null;
    checkProtocol(this.endpoint, said.protocol);
    this.#checkDraft(said);
    return said;
  }

  /** Throws `EngineError` for an engine that would refuse an update when it is paused. */
  #checkReplicas(info: Record<string, unknown> | null): void {
    const { dp_size, enable_dp_attention } = info ?? {};
    if (!isCount(dp_size) || dp_size === 1 || enable_dp_attention === true) return;
    throw new EngineError(
      `engine ${this.endpoint} is an SGLang with dp_size ${dp_size}, which takes no weights from other processes: start each replica as an engine of its own, with --dp-size 1, or all with --enable-dp-attention`,
    );
  }

  /** Throws `EngineError`: one of both sides would wait for the other in vain. */
  #checkDraft({ draft }: WorkersSaid): void {
    if (draft === null) return;
    const takes = draft.takes === 'apart';
    if (takes === this.#hasDraftModel) return;
    const why = takes
      ? 'beside the target its draft model takes the weights: tell the cluster hasDraftModel: true (--draft-model)'
      : 'beside the target no draft model takes the weights: leave hasDraftModel (--draft-model) out';
    throw new EngineError(`engine ${this.endpoint}: ${why}`);
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

  /** Flushes the cache within the update call, if at all: what is computed before has the old weights. */
  async update({ links, resetCache }: EngineUpdate, options: CallOptions): Promise<void> {
    if (resetCache && this.#aborts) await this.#untilIdle(options);
    this.#aborts = false;
    this.#hasFlushed = resetCache;
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
   * An update that flushes the cache itself asks for nothing of what the engine stores elsewhere (HiCache). Older ones have
   * the route for that under another name.
   */
  async resetCaches(options: CallOptions): Promise<void> {
    if (!this.#hasFlushed) await this.http.call('POST', '/flush_cache', null, options);
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
