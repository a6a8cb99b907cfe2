import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import { workerCount } from '../cluster/workers.ts';
import type { EngineClient, ReportedState } from '../engines/engine-client.ts';
import { createEngineClient } from '../engines/engine-options.ts';
import { sizeRefusal } from '../engines/world-size.ts';
import { AbortedError, DeadlineError, describe, UsageError } from '../errors.ts';
import { systemClock } from '../native-bridge/clock.ts';
import type { Logger } from '../ports.ts';

/** What an engine has said counts for so long: whoever asks more often, such as a load balancer, gets that. */
const freshMilliseconds = 5_000;
/** For each question to an engine that runs. */
const answerMilliseconds = 2_000;
/** The workers are asked between two steps of theirs. */
const workersMilliseconds = 10_000;

/** What an engine says of itself; a text: why it does not. */
type Said = ReportedState | string;

interface Watched {
  readonly client: EngineClient;
  said: Said | null;
  askedAt: number;
  asking: Promise<void> | null;
}

/** Asks engines beside the cluster, which hears of them in updates only: others may restart, pause or update them as well. */
export class EngineWatch {
  readonly #log: Logger;
  readonly #freshMilliseconds: number;
  readonly #watched = new Map<string, Watched>();
  /** Of engines that are asked whether they can be added. */
  readonly #closing = new AbortController();

  constructor(log: Logger, fresh = freshMilliseconds) {
    this.#log = log;
    this.#freshMilliseconds = fresh;
  }

  /**
   * For an instance that is to be added: whether its engine can be updated as this instance, if it runs. Resolves with why
   * that is not known yet; null if it is. Rejects with `EngineError`, with `UsageError` for other than one rank for each
   * worker, and with `AbortedError` when this is closed meanwhile.
   */
  async check(options: InstanceOptions): Promise<string | null> {
    const { name, endpoint } = options;
    const client = createEngineClient(options, systemClock, this.#log);
    const within = (timeoutMilliseconds: number) => ({
      timeoutMilliseconds,
      signal: this.#closing.signal,
    });
    try {
      await client.ready(within(answerMilliseconds));
      await client.state(within(answerMilliseconds));
      const [, size] = await Promise.all([
        client.workers(within(workersMilliseconds)),
        client.worldSize(within(answerMilliseconds)),
      ]);
      const refusal = size && sizeRefusal(`instance ${name} (${endpoint})`, workerCount(options), size);
      if (refusal !== null) throw new UsageError(refusal);
      return null;
    } catch (error) {
      if (error instanceof DeadlineError) return error.message;
      throw error;
    } finally {
      await client.close();
    }
  }

  /** How many workers an engine has; null if it does not say. Rejects with `AbortedError` when this is closed meanwhile. */
  async workersOf(options: InstanceOptions): Promise<number | null> {
    const client = createEngineClient(options, systemClock, this.#log);
    try {
      const { signal } = this.#closing;
      const size = await client.worldSize({ timeoutMilliseconds: answerMilliseconds, signal });
      return size?.total ?? null;
    } finally {
      await client.close();
    }
  }

  /** Why an engine is not as its instance is said to be, which serves and is not paused; null if it is. */
  async problem(options: InstanceOptions): Promise<string | null> {
    const said = await this.#ask(options);
    if (said === null) return null;
    if (typeof said === 'string') return said;
    if (said.isPaused === true || said.isSleeping === true)
      return `its engine was ${said.isPaused === true ? 'paused' : 'put to sleep'} by someone else`;
    return null;
  }

  /** What it has said no longer counts: it has been updated, resumed or removed. */
  forget(name: string): void {
    void this.#watched.get(name)?.client.close();
    this.#watched.delete(name);
  }

  close(): void {
    this.#closing.abort(new AbortedError('the daemon is stopping'));
    for (const name of [...this.#watched.keys()]) this.forget(name);
  }

  /** Null if it has not said anything yet. */
  async #ask(options: InstanceOptions): Promise<Said | null> {
    const { name } = options;
    const watched = this.#watched.get(name) ?? {
      client: createEngineClient(options, systemClock),
      said: null,
      askedAt: Number.NEGATIVE_INFINITY,
      asking: null,
    };
    this.#watched.set(name, watched);
    if (performance.now() - watched.askedAt > this.#freshMilliseconds)
      watched.asking ??= this.#update(watched);
    await watched.asking;
    return watched.said;
  }

  async #update(watched: Watched): Promise<void> {
    const options = { timeoutMilliseconds: answerMilliseconds, signal: new AbortController().signal };
    try {
      const { wasDown } = await watched.client.ready(options);
      watched.said = wasDown ? 'its engine has just been started' : await watched.client.state(options);
    } catch (error) {
      // That its client was closed says nothing about it.
      if (error instanceof AbortedError) return;
      watched.said = describe(error);
    } finally {
      watched.askedAt = performance.now();
      watched.asking = null;
    }
  }
}
