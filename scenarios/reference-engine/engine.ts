import type { CheckpointIndex } from '../../src/checkpoint/source.ts';
import { AbortedError, EngineError } from '../../src/errors.ts';
import { collectiveMethods, dummyVersion, type EngineState } from './collective-methods.ts';
import { type Completion, pickWords } from './completions.ts';
import type { EngineConfiguration } from './configuration.ts';
import { Gate } from './gate.ts';
import { WorkerGroup } from './worker-group.ts';

/** Words that the workers compute in one call; between two calls a pause takes effect. */
const wordsOfStep = 16;
/** A worker that needs longer for a step is declared dead some time later. */
const stepMilliseconds = 60_000;

/** What becomes of the completions that are being answered when the engine pauses, as in vLLM. */
export type PauseMode = 'abort' | 'wait' | 'keep';

interface CompletionRun {
  readonly prompt: string;
  readonly length: number;
  readonly signal: AbortSignal;
  readonly words: string[];
  readonly versions: Set<string>;
  /** Of the engine, when the completion came. */
  readonly aborts: number;
}

/** The engine behind the routes: its workers, and who may use them when. */
export class ReferenceEngine {
  readonly #gate: Gate;
  readonly #state: EngineState;
  #pauseMode: PauseMode = 'abort';
  /** Pauses so far that ended the completions being answered. */
  #aborts = 0;

  private constructor(gate: Gate, state: EngineState) {
    this.#gate = gate;
    this.#state = state;
  }

  /** Starts the workers. Rejects with the error of one that cannot start; then all are gone. */
  static async start(configuration: EngineConfiguration, index: CheckpointIndex): Promise<ReferenceEngine> {
    const gate = new Gate();
    const workers = await WorkerGroup.start(configuration, (error) => gate.refuseWaiting(error));
    return new ReferenceEngine(gate, { index, workers, version: dummyVersion });
  }

  get workers(): WorkerGroup {
    return this.#state.workers;
  }

  get paused(): boolean {
    return this.#gate.paused;
  }

  /** Answers a prompt; waits while the engine is paused. Rejects with `PeerLostError` when the engine is dead. */
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

  /**
   * Calls a method of `collectiveMethods` on all workers, while no completion runs. Rejects with the first worker's
   * failure, at once; what other workers still do keeps the engine busy until they are done.
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

  /** Holds completions back; resolves when none is being computed. */
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

  /** Ends the workers; what waits is sent away. */
  async stop(): Promise<void> {
    this.#gate.refuseWaiting(new AbortedError('the engine is stopping'));
    await this.workers.stop();
  }

  /** Computes words until there are enough, or a pause keeps the completion for later. */
  async #advance(run: CompletionRun): Promise<void> {
    const { prompt, length, signal, words, versions, aborts } = run;
    while (words.length < length) {
      this.#throwIfLost();
      versions.add(this.#state.version);
      const call = { prompt, from: words.length, steps: Math.min(wordsOfStep, length - words.length) };
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
