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
  Readiness,
  ReportedState,
  WorldSize,
} from './engine-client.ts';
import type { EngineHttpOptions } from './engine-http.ts';
import { HttpEngine } from './http-engine.ts';
import { vllmAnswers } from './vllm-answers.ts';
import { askWorkers, callWorkers, isAnswer, refuseWithoutWeightcast, WorkerFailure } from './vllm-workers.ts';
import { oldestProtocol } from './worker-link/messages.ts';
import type { WorkersSaid } from './workers-said.ts';

/** How long workers wait for their rank until that says otherwise: `DEFAULT_SILENCE_SECONDS` in python/. */
const usualSilenceSeconds = 600;

/** How often an update is tried beside somebody else's session before that is closed, and the time between two tries. */
const openTries = 3;
const openMilliseconds = 500;

/** The method that all workers have. */
const updateMethods = {
  /** `weightcast.worker.VllmWorkerExtension`, and with weightcast as the weight-transfer engine, in python/. */
  weightcast: 'update_weights_from_weightcast',
  /** `checkpoint_engine.worker.VllmColocateWorkerExtension`. */
  'checkpoint-engine': 'update_weights_from_ipc',
} as const satisfies Record<LinkKind, string>;

export interface VllmClientOptions extends EngineHttpOptions {
  /** What the engine's workers speak. Default: weightcast's own link. */
  readonly link?: LinkKind;
  /** The draft model takes the weights after the target model, in an exchange of its own. Default: false. */
  readonly hasDraftModel?: boolean;
}

/** vLLM's development routes (`VLLM_SERVER_DEV_MODE=1`). */
export class VllmClient extends HttpEngine implements EngineClient {
  readonly #link: LinkKind;
  readonly #hasDraftModel: boolean;
  /** Its workers have answered as those of weightcast do. */
  #hasWeightcast = false;
  /** It has no name for its weights, as it said when it was told one; until it says one, as a newer engine in its place does. */
  #isNameless = false;

  /** Throws `UsageError` if the endpoint is none. */
  constructor(options: VllmClientOptions) {
    super('vllm', '/health', options);
    this.#link = options.link ?? 'weightcast';
    this.#hasDraftModel = options.hasDraftModel ?? false;
  }

  override async ready(options: CallOptions): Promise<Readiness> {
    const readiness = await super.ready(options);
    if (readiness.wasDown) this.#hasWeightcast = false;
    return readiness;
  }

  async state(options: CallOptions): Promise<ReportedState> {
    const [isPaused, isSleeping, version] = await Promise.all([
      this.http.valueOf('/is_paused', 'is_paused', options),
      this.http.valueOf('/is_sleeping', 'is_sleeping', options),
      this.#version(options),
      this.refuseOtherKind(options),
    ]);
    return {
      isPaused: typeof isPaused === 'boolean' ? isPaused : null,
      isSleeping: typeof isSleeping === 'boolean' ? isSleeping : null,
      version,
    };
  }

  async pause(mode: PauseMode, options: CallOptions): Promise<void> {
    await this.http.call('POST', `/pause?mode=${mode}`, null, options);
    await this.#checkPaused(true, 'pause', options);
  }

  async resume(options: CallOptions): Promise<void> {
    await this.http.call('POST', '/resume', null, options);
    await this.#checkPaused(false, 'resume', options);
  }

  async update(update: EngineUpdate, options: CallOptions): Promise<void> {
    const { links } = update;
    const args = this.#hasDraftModel ? [links, usualSilenceSeconds, true] : [links];
    const method = updateMethods[this.#link];
    for (let tries = 1; ; tries += 1) {
      try {
        return await callWorkers(this.http, method, args, options);
      } catch (error) {
        if (this.#link === 'checkpoint-engine') throw withAnswersLeft(error, links);
        // Of vLLM's own trainers, which take the steps of a session one by one. Nothing was touched.
        const isBeside = error instanceof WorkerFailure && /already active/.test(error.message);
        if (!isBeside || tries > openTries) throw error;
      }
      if (tries < openTries) await this.http.wait(openMilliseconds, options.signal);
      // Whoever leaves one open for longer is gone.
      else await callWorkers(this.http, 'weightcast_close_session', [], options);
    }
  }

  async label(version: string, options: CallOptions): Promise<string | null> {
    if (this.#isNameless) return null;
    const body = { new_version: version };
    this.#isNameless = !(await this.http.tell('/update_weight_version', body, options));
    return this.#isNameless ? null : this.#version(options);
  }

  answers(prompts: readonly Prompt[], options: CallOptions): Promise<RankAnswers[]> {
    return vllmAnswers(this.http, prompts, options);
  }

  async #version(options: CallOptions): Promise<string | null> {
    const version = await this.http.valueOf('/weight_info', 'weight_version', options);
    if (typeof version !== 'string') return null;
    this.#isNameless = false;
    return version;
  }

  /** What answers the request may be something between us and the engine. */
  async #checkPaused(expected: boolean, route: string, options: CallOptions): Promise<void> {
    const isPaused = await this.http.valueOf('/is_paused', 'is_paused', options);
    if (isPaused !== !expected) return;
    const says = expected ? 'says that it is not paused' : 'says that it still is paused';
    throw new EngineError(`engine ${this.endpoint} answered POST /${route} with 200, but ${says}`);
  }

  /**
   * Older engines do not have the caches of multimodal inputs, and ignore the question about external stores. One without
   * such a store answers it as it does a failure, so it is asked without that, too.
   */
  async resetCaches(options: CallOptions): Promise<void> {
    // It is not reset while requests use it, and then neither are the others, which do not look.
    await this.#resetPrefixCache(options);
    await Promise.all([
      this.http.tryCall('POST', '/reset_mm_cache', null, options),
      this.http.tryCall('POST', '/reset_encoder_cache', null, options),
    ]);
  }

  async #resetPrefixCache(options: CallOptions): Promise<void> {
    const [all, own] = await Promise.allSettled([
      this.http.call('POST', '/reset_prefix_cache?reset_external=true', null, options),
      this.http.call('POST', '/reset_prefix_cache', null, options),
    ]);
    if (all.status === 'fulfilled') return;
    if (!isAnswer(all.reason)) throw all.reason;
    if (own.status === 'rejected') throw own.reason;
  }

  async workers(options: CallOptions): Promise<WorkersSaid | null> {
    const said = this.#link === 'weightcast' ? await this.#askWorkers(options) : null;
    if (this.#hasDraftModel) this.#checkDraft(said);
    return said;
  }

  /** One worker may be asked whatever it is. Of several the configuration is asked for once: that takes a vLLM seconds. */
  async #askWorkers(options: CallOptions): Promise<WorkersSaid> {
    const mayBeAsked = this.#hasWeightcast || (await this.worldSize(options))?.replica === 1;
    if (!mayBeAsked) await refuseWithoutWeightcast(this.http, options);
    const said = await askWorkers(this.http, options);
    this.#hasWeightcast = said.protocol > oldestProtocol;
    return said;
  }

  /** Throws `EngineError` if its workers do not take the weights a second time: a rank would wait in vain for them. */
  #checkDraft(said: WorkersSaid | null): void {
    const draft = said?.draft ?? null;
    if (draft?.takes === 'apart') return;
    const unsaid = 'its workers do not say that a draft model takes the weights apart from the target';
    const none = 'this engine has no draft model that takes the weights apart from its target';
    const why = draft === null ? unsaid : (draft.why ?? none);
    throw new EngineError(`engine ${this.endpoint}: ${why}: leave hasDraftModel (--draft-model) out`);
  }

  async worldSize(options: CallOptions): Promise<WorldSize | null> {
    const [replica, total] = await Promise.all(
      [false, true].map((all) =>
        this.http.valueOf(`/get_world_size?include_dp=${all}`, 'world_size', options),
      ),
    );
    return isCount(replica) && isCount(total) ? { replica, total } : null;
  }

  async survey(address: string, options: CallOptions): Promise<void> {
    return callWorkers(this.http, 'weightcast_survey', [address], options);
  }
}

/**
 * The workers of checkpoint-engine raise what goes wrong, and then vLLM has answers left that its next calls will find: an
 * update that goes well will be said to have failed, with this error.
 */
function withAnswersLeft(error: unknown, links: EngineUpdate['links']): unknown {
  if (!isAnswer(error) || Object.keys(links).length === 1) return error;
  const what = `${error.message}; if several of its workers failed, its next calls answer with errors of this one: then start it again`;
  return new EngineRefusal(what, error.status, String(error.cause));
}
