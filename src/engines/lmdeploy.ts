import { EngineError } from '../errors.ts';
import type { CallOptions, EngineClient, EngineUpdate, ReportedState, WorldSize } from './engine-client.ts';
import type { EngineHttpOptions } from './engine-http.ts';
import { HttpEngine } from './http-engine.ts';

const route = '/update_weights_from_ipc';

/** The answer of `GET /update_weights_from_ipc`. */
interface Status {
  readonly message: string;
  /** The workers and what sleeps are as an update wants them. */
  readonly isReady: boolean;
  readonly isSleeping: boolean;
  /** `weights`, `kv_cache`: what it takes to serve and does not have in device memory. */
  readonly asleep: readonly unknown[];
  /** Why it never takes weights from other processes as it was started; null if it does. */
  readonly unfit: string | null;
}

/**
 * LMDeploy's routes, as those of 0.18 are. Its PyTorch engine takes weights over checkpoint-engine's link and while it sleeps: a
 * pause is `POST /sleep`, which aborts requests, moves the weights to host memory and drops the KV cache, and then
 * `POST /wakeup?tags=weights`; the end of a pause wakes up the rest.
 */
export class LmdeployClient extends HttpEngine implements EngineClient {
  /** Throws `UsageError` for an invalid endpoint. Healthy while it sleeps, too. */
  constructor(options: EngineHttpOptions) {
    super('lmdeploy', '/health', options);
  }

  async state(options: CallOptions): Promise<ReportedState> {
    await this.refuseOtherKind(options);
    const { unfit, isSleeping, isReady } = await this.#status(options);
    if (unfit !== null)
      throw new EngineError(`engine ${this.endpoint} cannot be updated as it was started: ${unfit}`);
    // Asleep with the weights in device memory is what a pause leaves.
    return { isPaused: isSleeping, isSleeping: isSleeping && !isReady, version: null };
  }

  /** Its workers speak checkpoint-engine's. */
  async workers(): Promise<null> {
    return null;
  }

  async worldSize(options: CallOptions): Promise<WorldSize | null> {
    const said = await this.http.said(route, options);
    const devices = said?.device_uuids;
    if (!Array.isArray(devices) || devices.length === 0) return null;
    return { replica: devices.length, total: devices.length };
  }

  async survey(): Promise<never> {
    throw new EngineError(`engine ${this.endpoint} is an LMDeploy, whose workers do not say what they hold`);
  }

  /** It has one way to pause: requests are aborted. */
  async pause(_mode: unknown, options: CallOptions): Promise<void> {
    if (!(await this.#status(options)).isSleeping)
      await this.http.call('POST', '/sleep?level=1', {}, options);
    const status = await this.#status(options);
    // Started with --empty-init its weights sleep, in device memory all the same.
    if (status.isReady) return;
    if (status.asleep.includes('weights')) await this.http.call('POST', '/wakeup?tags=weights', {}, options);
    const { isReady, message } = await this.#status(options);
    if (!isReady) throw new EngineError(`engine ${this.endpoint} sleeps, and takes no weights: ${message}`);
  }

  /** Wakes up all that sleeps: after an update the weights do not. */
  async resume(options: CallOptions): Promise<void> {
    await this.http.call('POST', '/wakeup', {}, options);
    const isSleeping = await this.http.valueOf('/is_sleeping', 'is_sleeping', options);
    if (isSleeping === true) throw new EngineError(`engine ${this.endpoint} still sleeps after POST /wakeup`);
  }

  update({ links }: EngineUpdate, options: CallOptions): Promise<void> {
    return this.http.call('POST', route, { zmq_handles: links }, options);
  }

  /** The pause has dropped the KV cache. */
  async resetCaches(): Promise<void> {}

  /** It has no name for its weights. */
  async label(): Promise<null> {
    return null;
  }

  /** It gives log-probabilities of what it generates, and none of prompts. */
  async answers(): Promise<never> {
    throw new EngineError(
      `engine ${this.endpoint} is an LMDeploy, which gives no log-probabilities of prompts`,
    );
  }

  async #status(options: CallOptions): Promise<Status> {
    const said = await this.http.object('GET', route, null, options);
    const { ready, message, backend, device_type, checkpoint_engine_version: worker } = said;
    const words = typeof message === 'string' ? message : 'it does not say why';
    const isUnfit = backend !== 'pytorch' || device_type !== 'cuda' || typeof worker !== 'string';
    return {
      message: words,
      isReady: ready === true,
      isSleeping: said.is_sleeping === true,
      asleep: Array.isArray(said.sleeping_tags) ? said.sleeping_tags : [],
      unfit: isUnfit ? words : null,
    };
  }
}
