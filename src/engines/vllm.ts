import { EngineError } from '../errors.ts';
import { isCount } from './engine-answer.ts';
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
import { vllmAnswers } from './vllm-answers.ts';
import { askWorkers, callWorkers, type Face, isAnswer, secondsOf } from './vllm-workers.ts';

/** How long workers wait for their rank until that says otherwise: `DEFAULT_SILENCE_SECONDS` in python/. */
const usualSilenceSeconds = 600;

/** How long a session that was cut short may take to close. */
const closeMilliseconds = 10_000;

/** How often a session is opened beside another one before that is closed, and the time between two tries. */
const openTries = 3;
const openMilliseconds = 500;

/** Workers without a link fail, which ends the session. */
const noLinks = { update_info: { links: {} } };

/** The method of the worker extension, `--worker-extension-cls`. */
const updateMethods = {
  /** `weightcast.worker.VllmWorkerExtension`, in python/. */
  weightcast: 'update_weights_from_weightcast',
  /** `checkpoint_engine.worker.VllmColocateWorkerExtension`. */
  'checkpoint-engine': 'update_weights_from_ipc',
} as const satisfies Record<LinkKind, string>;

/** Of a worker extension: how many times it takes the weights in an update that is also for the draft model. */
const exchangesMethod = 'weightcast_exchanges';

export interface VllmClientOptions extends EngineHttpOptions {
  /** What the engine's workers speak. Default: weightcast's own link. */
  readonly link?: LinkKind;
  /** The draft model takes the weights after the target model, in a session or an exchange of its own. Default: false. */
  readonly hasDraftModel?: boolean;
}

/**
 * vLLM's development routes (`VLLM_SERVER_DEV_MODE=1`). An engine that was started with weightcast as its
 * weight-transfer engine is updated in a session of vLLM's own, any other through a worker extension.
 */
export class VllmClient extends HttpEngine implements EngineClient {
  readonly #link: LinkKind;
  readonly #hasDraftModel: boolean;
  /** How the engine takes weights from weightcast's own link, as it said last. Null: it has to be asked. */
  #face: Face | null = null;
  /** It has no name for its weights, as it said when it was told one; until it says one, as a newer engine in its place does. */
  #isNameless = false;

  /** Throws `UsageError` if the endpoint is none. */
  constructor(options: VllmClientOptions) {
    super('vllm', '/health', options);
    this.#link = options.link ?? 'weightcast';
    this.#hasDraftModel = options.hasDraftModel ?? false;
  }

  async state(options: CallOptions): Promise<ReportedState> {
    const [isPaused, isSleeping, version] = await Promise.all([
      this.http.valueOf('/is_paused', 'is_paused', options),
      this.http.valueOf('/is_sleeping', 'is_sleeping', options),
      this.#version(options),
      this.refuseOtherKind(options),
    ]);
    // One that is paused says that it sleeps, too.
    const isAsleep = isSleeping === true && isPaused !== true;
    if (this.#hasDraftModel && !isAsleep) await this.#checkDraft(options);
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
    if (await this.#takesSessions(options)) return this.#sessions({ links: update.links }, options);
    return this.#extension(update, options);
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

  /** Rejects with `EngineError` if its workers do not take the weights a second time: a rank would wait in vain for them. */
  async #checkDraft(options: CallOptions): Promise<void> {
    if (await this.#takesSessions(options)) return;
    const call = { method: exchangesMethod, args: [], timeout: secondsOf(options) };
    const answer = await this.http.object('POST', '/collective_rpc', call, options).catch((error) => {
      if (isAnswer(error)) return null;
      throw error;
    });
    const results: unknown[] = Array.isArray(answer?.results) ? answer.results : [];
    const said = results.map((result) => (result ?? {}) as { exchanges?: unknown; why?: unknown });
    const other = said.find(({ exchanges }) => exchanges !== 2);
    if (other === undefined && said.length > 0) return;
    const unsaid =
      'its worker extension does not say that a draft model takes the weights apart from the target';
    const why = typeof other?.why === 'string' ? other.why : unsaid;
    throw new EngineError(`engine ${this.endpoint}: ${why}: leave hasDraftModel (--draft-model) out`);
  }

  /**
   * Older engines do not have the caches of multimodal inputs, and ignore the question about external stores. One without
   * such a store answers it as it does a failure, so it is then asked without.
   */
  async resetCaches(options: CallOptions): Promise<void> {
    // All at once: the engine is paused meanwhile.
    await Promise.all([
      this.#resetPrefixCache(options),
      this.http.tryCall('POST', '/reset_mm_cache', null, options),
      this.http.tryCall('POST', '/reset_encoder_cache', null, options),
    ]);
  }

  async #resetPrefixCache(options: CallOptions): Promise<void> {
    try {
      await this.http.call('POST', '/reset_prefix_cache?reset_external=true', null, options);
    } catch (error) {
      if (!isAnswer(error)) throw error;
      await this.http.call('POST', '/reset_prefix_cache', null, options);
    }
  }

  async linkProtocol(options: CallOptions): Promise<number | null> {
    if (this.#link !== 'weightcast') return null;
    const { face, protocol } = await askWorkers(this.http, options);
    this.#face = face;
    return protocol;
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
    if (await this.#takesSessions(options)) return this.#sessions({ survey: address }, options);
    return callWorkers(this.http, 'weightcast_survey', [address], options);
  }

  async #takesSessions(options: CallOptions): Promise<boolean> {
    if (this.#link !== 'weightcast') return false;
    this.#face ??= (await askWorkers(this.http, options)).face;
    return this.#face === 'session';
  }

  async #extension(update: EngineUpdate, options: CallOptions): Promise<void> {
    this.#face = null;
    const args = this.#hasDraftModel ? [update.links, usualSilenceSeconds, true] : [update.links];
    await callWorkers(this.http, updateMethods[this.#link], args, options);
    this.#face = 'extension';
  }

  /** For the target, and for a draft model that takes weights in one of its own. */
  async #sessions(info: object, options: CallOptions): Promise<void> {
    const post: Post = (path, body) => this.http.call('POST', path, body, options);
    await this.#session(post, '/start_weight_update', info, options.signal);
    if (this.#hasDraftModel) await this.#session(post, '/start_draft_weight_update', info, options.signal);
  }

  async #session(post: Post, start: string, info: object, signal: AbortSignal): Promise<void> {
    await this.#open(post, start, signal);
    await this.#closing(async () => {
      await post('/update_weights', { update_info: info });
      // Without a version: what the engine calls its weights is told when they are proved to be right.
      await post('/finish_weight_update', {});
    });
  }

  /**
   * Opens a session when another cluster's, which may be between two of its steps, is over; while weights change an engine
   * answers nobody. Whoever leaves one open for longer is gone: an update that fails closes it.
   */
  async #open(post: Post, start: string, signal: AbortSignal): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#closing(() => post(start, null));
      } catch (error) {
        const isActive = isAnswer(error) && /already active/.test(error.message);
        if (!isActive || tries > openTries) throw error;
      }
      if (tries < openTries) await this.http.wait(openMilliseconds, signal);
      else await post('/update_weights', noLinks).catch(() => {});
    }
  }

  /** An engine that gets requests in an open session dies: a failed update leaves none, whatever it was cut short in. */
  async #closing(step: () => Promise<void>): Promise<void> {
    try {
      await step();
    } catch (error) {
      const options = { timeoutMilliseconds: closeMilliseconds, signal: new AbortController().signal };
      if (!isAnswer(error)) await this.http.call('POST', '/update_weights', noLinks, options).catch(() => {});
      throw error;
    }
  }
}

type Post = (path: string, body: object | null) => Promise<void>;
