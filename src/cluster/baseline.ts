import { type BaselinePlace, surveyEngines } from '../engines/baseline.ts';
import { readBaseline, writeBaseline } from '../engines/baseline-file.ts';
import { checkEngineOptions, type EngineOptions } from '../engines/engine-options.ts';
import { UsageError } from '../errors.ts';
import { systemClock } from '../native-bridge/clock.ts';

/** What engines hold that were started with a version of the weights, to compare updated engines with. */
export class Baseline {
  readonly places: readonly BaselinePlace[];

  private constructor(places: readonly BaselinePlace[]) {
    this.places = places;
  }

  /**
   * Asks engines on this host that were started with the same files, and not updated since. Nothing in them changes. What
   * differs among them is left out of comparisons. Rejects with `UsageError`, `EngineError`, `DeadlineError` or
   * `AbortedError`.
   */
  static async of(
    engines: readonly EngineOptions[],
    { timeoutMilliseconds = 60_000, signal = new AbortController().signal }: BaselineOptions = {},
  ): Promise<Baseline> {
    if (engines.length === 0) throw new UsageError('a baseline is taken of one engine or more');
    for (const [index, engine] of engines.entries()) checkEngineOptions(`${index}`, engine);
    return new Baseline(await surveyEngines(engines, systemClock, { timeoutMilliseconds, signal }));
  }

  /** Throws a `UsageError` that names the file. */
  static read(file: string): Baseline {
    return new Baseline(readBaseline(file));
  }

  write(file: string): void {
    writeBaseline(file, this.places);
  }
}

export interface BaselineOptions {
  /** Of each call to an engine. Default: 60,000. */
  readonly timeoutMilliseconds?: number;
  readonly signal?: AbortSignal;
}
