/**
 * The port to one inference engine's HTTP API. An instance has one client, the only caller of the engine's update route. All
 * methods reject with `EngineError` (with the engine's own message), `DeadlineError` or `AbortedError`.
 */
export interface EngineClient {
  /** For error messages and status. */
  readonly endpoint: string;
  /** Polls the engine's health route until it succeeds or the deadline passes. */
  ready(options: CallOptions): Promise<Readiness>;
  /** What the engine says of itself. */
  state(options: CallOptions): Promise<ReportedState>;
  /**
   * Version of the worker link in which ranks and this engine's workers understand each other; null if it cannot be asked.
   * Rejects with `EngineError` if there is none.
   */
  linkProtocol(options: CallOptions): Promise<number | null>;
  /**
   * Has the engine's workers say what their models hold, at the address of a `SurveySocket`. Resolves when all have;
   * nothing in the engine changes. Rejects with `EngineError` where engines of this kind have no such thing.
   */
  survey(address: string, options: CallOptions): Promise<void>;
  /** Stops generation; the mode decides about requests in flight. Allowed while the engine is paused already. */
  pause(mode: PauseMode, options: CallOptions): Promise<void>;
  /** Resumes generation. */
  resume(options: CallOptions): Promise<void>;
  /**
   * Has the engine's workers connect to their worker links. Resolves when all of them have loaded the weights and run their
   * post-hooks, and the engine has dropped its caches if requested.
   */
  update(order: EngineUpdate, options: CallOptions): Promise<void>;
  close(): Promise<void>;
}

export interface EngineUpdate {
  /** Device uuid to the address of that device's worker link. */
  readonly links: Readonly<Record<string, string>>;
  /** `checkpoint@digest`, for engines that report their weight version. */
  readonly version: string;
  /** How long a rank may keep an engine worker waiting, because another worker of the update takes that long. */
  readonly stepTimeoutMilliseconds: number;
  /** Drop the caches that were computed with the old weights. */
  readonly resetCache: boolean;
}

export interface Readiness {
  /** The engine did not run, or was not healthy, when it was asked first. */
  readonly wasDown: boolean;
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
 * them after the pause. SGLang: `abort` aborts them, `retract` recomputes them after the pause, `in_place` continues them.
 */
export const pauseModes = {
  vllm: ['abort', 'wait', 'keep'],
  sglang: ['abort', 'retract', 'in_place'],
} as const;
export type EngineKind = keyof typeof pauseModes;
export type PauseMode = (typeof pauseModes)[EngineKind][number];

export const engineKinds = ['vllm', 'sglang'] as const satisfies readonly EngineKind[];
export const allPauseModes = ['abort', 'wait', 'keep', 'retract', 'in_place'] as const satisfies PauseMode[];

/** How an engine is paused for an update: in one of these ways by us, or by the caller, who resumes it too. */
export const pauseOptions = [...allPauseModes, 'caller'] as const;
export type PauseOption = (typeof pauseOptions)[number];

/** Protocol of the engine's workers: weightcast's own, or that of checkpoint-engine's extension. */
export const linkKinds = ['weightcast', 'checkpoint-engine'] as const;
export type LinkKind = (typeof linkKinds)[number];
