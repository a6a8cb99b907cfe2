/**
 * The port to one inference engine's HTTP API. An instance has one client, the only caller of the engine's update route. All
 * methods reject with `EngineError` (with the engine's own message), `DeadlineError` or `AbortedError`.
 */
export interface EngineClient {
  /** For error messages and status. */
  readonly endpoint: string;
  /** Polls the engine's health route until it succeeds or the deadline passes. */
  ready(options: CallOptions): Promise<void>;
  /** Stops generation; the mode decides about requests in flight. Allowed while the engine is paused already. */
  pause(mode: PauseMode, options: CallOptions): Promise<void>;
  /** Resumes generation. */
  resume(options: CallOptions): Promise<void>;
  /**
   * Has the engine's workers connect to their worker links. Resolves when all of them have loaded the weights and run their
   * post-hooks, and the engine has reset its prefix cache if requested.
   */
  update(order: EngineUpdate, options: CallOptions): Promise<void>;
  close(): Promise<void>;
}

export interface EngineUpdate {
  /** Device uuid to the address of that device's worker link. */
  readonly links: Readonly<Record<string, string>>;
  /** `checkpoint@digest`, for engines that report their weight version. */
  readonly version: string;
  /** Reset the prefix cache, which was computed with the old weights. */
  readonly resetCache: boolean;
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

/** Protocol of the engine's workers: weightcast's own, or that of checkpoint-engine's extension. */
export const linkKinds = ['weightcast', 'checkpoint-engine'] as const;
export type LinkKind = (typeof linkKinds)[number];
