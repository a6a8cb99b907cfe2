import type { WorkersSaid } from './workers-said.ts';

/**
 * The port to one inference engine's HTTP API. An instance has one client, the only caller of the engine's update route. All
 * methods reject with `EngineError` (with the engine's own message), `DeadlineError` or `AbortedError`.
 */
export interface EngineClient {
  /** For error messages and status. */
  readonly endpoint: string;
  /** Polls the engine's health route until it succeeds or the deadline passes. */
  ready(options: CallOptions): Promise<Readiness>;
  /**
   * What the engine says of itself. Rejects with `EngineError` too if it says that it cannot be updated as it is set up, as an
   * engine of another kind.
   */
  state(options: CallOptions): Promise<ReportedState>;
  /**
   * What the engine's workers say of themselves; null if they cannot be asked. Rejects with `EngineError` if they speak no
   * version of the worker link that ranks understand, or take a draft model's weights in another way.
   */
  workers(options: CallOptions): Promise<WorkersSaid | null>;
  /** How many workers the engine has; null if it does not say. Rejects with `AbortedError` only. */
  worldSize(options: CallOptions): Promise<WorldSize | null>;
  /**
   * Has the engine's workers say what their models hold, at the address of a `SurveySocket`. Resolves when all have;
   * nothing in the engine changes. Rejects with `EngineError` where engines of this kind have no such thing.
   */
  survey(address: string, options: CallOptions): Promise<void>;
  /** Stops generation; the mode decides about requests in flight. Allowed while the engine is paused already. */
  pause(mode: PauseMode, options: CallOptions): Promise<void>;
  /** Resumes generation. Rejects too if the engine says that it still is paused. */
  resume(options: CallOptions): Promise<void>;
  /**
   * Has the engine's workers connect to their worker links. Resolves when all of them have loaded the weights and run their
   * post-hooks.
   */
  update(order: EngineUpdate, options: CallOptions): Promise<void>;
  /**
   * Drops the caches that were computed with the old weights, as far as the update has not done so by its order. Rejects
   * with `EngineError` if requests use them.
   */
  resetCaches(options: CallOptions): Promise<void>;
  /**
   * Tells the engine what its weights are called, `checkpoint@digest`. Resolves with what it calls them from then on; null
   * if it has no name for them, or does not say.
   */
  label(version: string, options: CallOptions): Promise<string | null>;
  /**
   * How probable the engine finds the tokens of prompts, computed by its model now and by nothing that it remembers. An
   * engine that is paused answers when it is resumed. Each data-parallel rank is asked, where it can be addressed. Without
   * prompts nothing is computed, and it rejects if the engine would not answer whoever asks, as with a wrong API key.
   */
  answers(prompts: readonly Prompt[], options: CallOptions): Promise<RankAnswers[]>;
  close(): Promise<void>;
}

export interface EngineUpdate {
  /** Device uuid to the address of that device's worker link. */
  readonly links: Readonly<Record<string, string>>;
  /** The caches that were computed with the old weights will have to be dropped. */
  readonly resetCache: boolean;
}

/** Text, or the numbers of its tokens. */
export type Prompt = string | readonly number[];

/** What one data-parallel rank of an engine answered. */
export interface RankAnswers {
  /** Null where there is only one, or the engine does not say how many there are. */
  readonly dataParallelRank: number | null;
  /** By prompt: the log-probability of each of its tokens but the first, natural; NaN where the engine gave none. */
  readonly logprobs: readonly (readonly number[])[];
}

export interface Readiness {
  /** The engine did not run, or was not healthy, when it was asked first. */
  readonly wasDown: boolean;
}

/** An engine behind several servers, of which this is one, may say how many workers all of them have. */
export interface WorldSize {
  /** Of one data-parallel replica. */
  readonly replica: number;
  /** Of all replicas. */
  readonly total: number;
}

/** Null is what the engine has no route for. */
export interface ReportedState {
  readonly isPaused: boolean | null;
  readonly isSleeping: boolean | null;
  /** The version of its weights that it was given last. */
  readonly version: string | null;
}

export interface CallOptions {
  readonly timeoutMilliseconds: number;
  readonly signal: AbortSignal;
}

/**
 * What a pause does with requests in flight. vLLM: `abort` aborts them, `wait` lets them finish first, `keep` continues
 * them after the pause. SGLang: `abort` aborts them, `retract` recomputes them after the pause, `in_place` continues them. LMDeploy sleeps, which
 * aborts them.
 */
export const pauseModes = {
  vllm: ['abort', 'wait', 'keep'],
  sglang: ['abort', 'retract', 'in_place'],
  lmdeploy: ['abort'],
} as const;
export type EngineKind = keyof typeof pauseModes;
export type PauseMode = (typeof pauseModes)[EngineKind][number];

export const engineKinds = ['vllm', 'sglang', 'lmdeploy'] as const satisfies readonly EngineKind[];
export const allPauseModes = ['abort', 'wait', 'keep', 'retract', 'in_place'] as const satisfies PauseMode[];

/** Which one it is, if nobody says otherwise. */
export function engineOf({ engine }: { readonly engine?: EngineKind }): EngineKind {
  return engine ?? 'vllm';
}

/** How an engine is paused for an update: in one of these ways by us, or by the caller, who resumes it too. */
export const pauseOptions = [...allPauseModes, 'caller'] as const;
export type PauseOption = (typeof pauseOptions)[number];

/** `if idle`: if the engine has no requests, which would go on with what they have of its caches. */
export type CacheReset = 'always' | 'if idle' | 'never';

/** Whether an update drops the caches, unless someone says otherwise: a pause that lets no request live needs no condition. */
export function cacheResetOf(options: {
  readonly pause?: PauseOption;
  readonly resetCache?: boolean;
}): CacheReset {
  const { pause, resetCache } = options;
  if (resetCache !== undefined) return resetCache ? 'always' : 'never';
  return pause === 'abort' || pause === 'wait' ? 'always' : 'if idle';
}

/** Protocol of the engine's workers: weightcast's own, or that of checkpoint-engine's extension. */
export const linkKinds = ['weightcast', 'checkpoint-engine'] as const;
export type LinkKind = (typeof linkKinds)[number];
