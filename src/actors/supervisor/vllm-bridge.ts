import type {
  CallOptions,
  EngineClient,
  Prompt,
  ReportedState,
  WorldSize,
} from '../../engines/engine-client.ts';
import type { WorkersSaid } from '../../engines/workers-said.ts';
import { AbortedError, asFailure, DeadlineError, type WeightcastError } from '../../errors.ts';
import type { Clock } from '../../ports.ts';
import type { Actor, Context, Reply } from '../kernel/index.ts';
import type { BridgeMessage, EngineState, Questioned } from '../protocol/bridge.ts';
import { lateForStep } from '../update/words.ts';

/** What an engine that took long to be ready has for the questions that follow. */
const leastMilliseconds = 1_000;

interface Call {
  readonly abort: AbortController;
  readonly end: (error: WeightcastError) => void;
}

/**
 * The supervisor's half of the bridge to one engine instance, the only one that sends it HTTP requests. The other half,
 * the worker link, is in each rank.
 *
 * A call may take minutes, so it runs beside the mailbox, and `abandon` aborts it. There is one call at a time, but for
 * questions, which change nothing, and the name of the weights, which no other call reads.
 */
export class VllmBridgeActor implements Actor<BridgeMessage> {
  readonly #client: EngineClient;
  #running: Call | null = null;
  /** What the engine's workers said, and how many there are, when the engine was asked last. */
  #workers: WorkersSaid | null = null;
  #worldSize: WorldSize | null = null;
  /** The version that it was told since then: an engine that still says it is the same one. Null: none. */
  #told: string | null = null;
  /** Whether it was, when it was asked last. */
  #wasWell = false;
  readonly #others = new Set<AbortController>();
  /** Settles when the client is done with the calls so far: one that was aborted may still leave the engine as it should. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(client: EngineClient) {
    this.#client = client;
  }

  receive(message: BridgeMessage, context: Context<BridgeMessage>): void {
    switch (message.type) {
      case 'await-healthy':
        return this.#call(message, context.deferReply(message), (options) =>
          this.#awaitHealthy(options, message.workersMilliseconds, context.clock),
        );
      case 'pause':
        return this.#call(message, context.deferReply(message), async (options) => {
          await this.#client.pause(message.mode, options);
          return {};
        });
      case 'resume':
        return this.#call(message, context.deferReply(message), async (options) => {
          await this.#client.resume(options);
          return {};
        });
      case 'trigger': {
        const { links, resetCache } = message;
        return this.#call(message, context.deferReply(message), async (options) => {
          this.#told = null;
          await this.#client.update({ links, resetCache }, options);
          return {};
        });
      }
      case 'reset-caches':
        return this.#call(message, context.deferReply(message), async (options) => {
          await this.#client.resetCaches(options);
          return {};
        });
      case 'label':
        return void this.#beside(message, context.deferReply(message), async (options) => {
          this.#told = await this.#client.label(message.version, options);
          return { said: this.#told };
        });
      case 'answers':
        return void this.#beside(message, context.deferReply(message), (options) =>
          this.#askAnswers(message.prompts, options),
        );
      case 'identify':
        return void this.#beside(message, context.deferReply(message), (options) => this.#identify(options));
      case 'abandon':
        this.#abort(new AbortedError(message.reason));
        return context.reply(message, {});
    }
  }

  async stopping(): Promise<void> {
    this.#abort(new AbortedError(`the bridge to ${this.#client.endpoint} is stopping`));
    await this.#client.close();
  }

  async #awaitHealthy(options: CallOptions, workersMilliseconds: number, clock: Clock): Promise<EngineState> {
    const endsAt = clock.now() + options.timeoutMilliseconds;
    // One that was well before is asked everything at once: each round of questions is time that its update takes.
    const early = new AbortController();
    const signal = AbortSignal.any([options.signal, early.signal]);
    const asked = this.#wasWell
      ? this.#ask({ ...options, signal }, workersMilliseconds).catch(asFailure)
      : null;
    this.#wasWell = false;
    const { wasDown } = await this.#client.ready(options);
    if (wasDown) {
      early.abort(new AbortedError(`${this.#client.endpoint} was down`));
      this.#told = null;
    }
    const answer = wasDown ? null : await asked;
    // It has had the time that others wait for it.
    if (answer instanceof DeadlineError) throw answer;
    const timeoutMilliseconds = Math.max(leastMilliseconds, endsAt - clock.now());
    const isAnswer = answer !== null && !(answer instanceof Error);
    const state = isAnswer
      ? answer
      : await this.#ask({ ...options, timeoutMilliseconds }, workersMilliseconds);
    this.#wasWell = true;
    return { wasDown, ...state, workers: this.#workers, worldSize: this.#worldSize };
  }

  /** What it says of itself, and of its workers unless it is the engine that has told of them before. */
  async #ask(options: CallOptions, workersMilliseconds: number): Promise<ReportedState> {
    const timeoutMilliseconds = Math.min(options.timeoutMilliseconds, workersMilliseconds);
    const askWorkers = () =>
      this.#askWorkers({ ...options, timeoutMilliseconds }).catch((thrown) => {
        throw lateForStep(asFailure(thrown), workersMilliseconds === timeoutMilliseconds);
      });
    const isKnown = this.#told !== null && this.#workers?.isSteady !== false;
    // What they held then.
    if (isKnown && this.#workers !== null) this.#workers = { ...this.#workers, held: 'unknown' };
    const [state] = await Promise.all([this.#client.state(options), ...(isKnown ? [] : [askWorkers()])]);
    if (isKnown && state.version !== this.#told) await askWorkers();
    return state;
  }

  async #askWorkers(options: CallOptions): Promise<void> {
    [this.#workers, this.#worldSize] = await Promise.all([
      this.#client.workers(options),
      this.#client.worldSize(options),
    ]);
  }

  async #askAnswers(prompts: readonly Prompt[], options: CallOptions): Promise<Questioned> {
    const ranks = await this.#client.answers(prompts, options);
    return {
      ranks: ranks.map(({ dataParallelRank, logprobs }) => ({
        dataParallelRank,
        logprobs: logprobs.map((row) => [...row]),
      })),
    };
  }

  async #identify(options: CallOptions) {
    const [{ version }, workers] = await Promise.all([
      this.#client.state(options),
      this.#client.workers(options),
    ]);
    return { version, held: workers?.held ?? ('unknown' as const) };
  }

  async #beside<T>(
    { timeoutMilliseconds }: { readonly timeoutMilliseconds: number },
    reply: Reply<T>,
    send: (options: CallOptions) => Promise<T>,
  ): Promise<void> {
    const abort = new AbortController();
    this.#others.add(abort);
    try {
      reply.succeed(await send({ timeoutMilliseconds, signal: abort.signal }));
    } catch (error) {
      reply.fail(asFailure(error));
    } finally {
      this.#others.delete(abort);
    }
  }

  #call<T>(
    { timeoutMilliseconds }: { readonly timeoutMilliseconds: number },
    reply: Reply<T>,
    send: (options: CallOptions) => Promise<T>,
  ): void {
    this.#abortCall(new AbortedError(`a later call to ${this.#client.endpoint} replaced this one`));
    const abort = new AbortController();
    const call: Call = { abort, end: (error) => reply.fail(error) };
    this.#running = call;
    const sent = this.#last.then(() => send({ timeoutMilliseconds, signal: abort.signal }));
    // Whether or not the call was aborted: the second of two answers to a message is ignored.
    this.#last = sent.then(
      (answer) => reply.succeed(answer),
      (error) => reply.fail(asFailure(error)),
    );
    this.#last.then(() => {
      if (this.#running === call) this.#running = null;
    });
  }

  #abort(reason: WeightcastError): void {
    this.#abortCall(reason);
    for (const other of this.#others) other.abort(reason);
  }

  #abortCall(reason: WeightcastError): void {
    this.#running?.end(reason);
    this.#running?.abort.abort();
    this.#running = null;
  }
}
