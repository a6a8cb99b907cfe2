import type { CheckpointIndex } from '../../src/checkpoint/source.ts';
import { AbortedError, EngineError } from '../../src/errors.ts';
import { collectiveMethods, dummyVersion, type EngineState } from './collective-methods.ts';
import { type Completion, logprobsOf, pickWords } from './completions.ts';
import type { EngineConfiguration } from './configuration.ts';
import { Gate } from './gate.ts';
import { WorkerGroup } from './worker-group.ts';

/** Words that the workers compute in one call. A pause takes effect between two calls. */
const wordsPerStep = 16;
/** Timeout of a step; a worker that exceeds it by far is killed (see `WorkerHandle`). */
const stepMilliseconds = 60_000;

/** What a pause does with running completions, as in vLLM: end them, wait for their end, or keep them for later. */
export type PauseMode = 'abort' | 'wait' | 'keep';

interface CompletionRun {
  readonly prompt: string;
  readonly length: number;
  readonly signal: AbortSignal;
  readonly words: string[];
  readonly versions: Set<string>;
  /** The engine's count of aborting pauses when the completion started. */
  readonly aborts: number;
}

/** The engine behind the routes: its workers, and the gate that schedules access to them. */
export class ReferenceEngine {
  readonly #gate: Gate;
  readonly #state: EngineState;
  #pauseMode: PauseMode = 'abort';
  /** Number of pauses so far that ended running completions. */
  #aborts = 0;

  private constructor(gate: Gate, state: EngineState) {
    this.#gate = gate;
    this.#state = state;
  }

  /** Starts the workers. If one cannot start, rejects with its error and ends the others. */
  static async start(configuration: EngineConfiguration, index: CheckpointIndex): Promise<ReferenceEngine> {
    const gate = new Gate();
    const workers = await WorkerGroup.start(configuration, (error) => gate.refuseWaiting(error));
    const { hasDraftModel } = configuration;
    return new ReferenceEngine(gate, { index, workers, hasDraftModel, version: dummyVersion });
  }

  get workers(): WorkerGroup {
    return this.#state.workers;
  }

  get paused(): boolean {
    return this.#gate.paused;
  }

  /** Completes a prompt; waits while the engine is paused. Rejects with `PeerLostError` if the engine is dead. */
  async complete(prompt: string, length: number, signal: AbortSignal): Promise<Completion> {
    const words: string[] = [];
    const versions = new Set<string>();
    const run = { prompt, length, signal, words, versions, aborts: this.#aborts };
    try {
      while (words.length < length) {
        await this.#gate.enter(signal);
        try {
          await this.#advance(run);
        } finally {
          this.#gate.leave();
        }
      }
      return { prompt, words, versions, finishReason: 'length' };
    } catch (error) {
      if (!(error instanceof AbortedError)) throw error;
      return { prompt, words, versions, finishReason: 'abort' };
    }
  }

  /** How probable each token but the first is; waits while the engine is paused. Rejects with `PeerLostError`. */
  async logprobs(tokens: readonly number[], signal: AbortSignal): Promise<number[]> {
    await this.#gate.enter(signal);
    try {
      this.#throwIfLost();
      const call = { prompt: `tokens ${tokens.join(' ')}`, from: 1, steps: tokens.length - 1 };
      return logprobsOf(await this.workers.callAll('partialSums', () => call, stepMilliseconds).result);
    } finally {
      this.#gate.leave();
    }
  }

  /**
   * Calls a method of `collectiveMethods` on all workers while no completion runs. Rejects as soon as one worker fails;
   * the engine stays busy until the other workers are done.
   */
  async collectiveRpc(
    method: string,
    args: readonly unknown[],
    timeoutMilliseconds: number,
  ): Promise<unknown[]> {
    const start = collectiveMethods.get(method);
    if (start === undefined) {
      throw new EngineError(`NotImplementedError: Method '${method}' is not implemented.`);
    }
    await this.#gate.enterAlone(timeoutMilliseconds);
    let done: Promise<void> = Promise.resolve();
    try {
      this.#throwIfLost();
      const call = start(this.#state, args, timeoutMilliseconds);
      done = call.done;
      return await call.result;
    } finally {
      done.then(() => this.#gate.leaveAlone());
    }
  }

  /** Pauses completions; resolves when none is being computed. */
  async pause(mode: PauseMode): Promise<void> {
    this.#pauseMode = mode;
    this.#gate.pause();
    if (mode === 'abort') {
      this.#aborts += 1;
      this.#gate.refuseWaiting(new AbortedError('the engine was paused'));
    }
    await this.#gate.empty();
  }

  resume(): void {
    this.#gate.resume();
  }

  /** Stops the workers; waiting completions are rejected. */
  async stop(): Promise<void> {
    this.#gate.refuseWaiting(new AbortedError('the engine is stopping'));
    await this.workers.stop();
  }

  /** Computes words until the completion has its length or a pause keeps it for later. */
  async #advance(run: CompletionRun): Promise<void> {
    const { prompt, length, signal, words, versions, aborts } = run;
    while (words.length < length) {
      this.#throwIfLost();
      versions.add(this.#state.version);
      const call = { prompt, from: words.length, steps: Math.min(wordsPerStep, length - words.length) };
      words.push(
        ...pickWords(await this.workers.callAll('partialSums', () => call, stepMilliseconds).result),
      );
      signal.throwIfAborted();
      if (this.#aborts !== aborts) throw new AbortedError('the engine was paused');
      if (this.paused && this.#pauseMode === 'keep') return;
    }
  }

  #throwIfLost(): void {
    if (this.workers.lost !== null) throw this.workers.lost;
  }
}
