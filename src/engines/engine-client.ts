/**
 * The port to one inference engine's HTTP face. One instance has one client; nobody else calls the engine's update
 * route. All methods reject with `EngineError` (the engine's own words in it), `DeadlineError` or `AbortedError`.
 */
export interface EngineClient {
  /** For messages to people: the endpoint. */
  readonly endpoint: string;
  /** Resolves when the engine answers its health route; asks again until the deadline. */
  ready(options: CallOptions): Promise<void>;
  /** Stops generating; what becomes of requests in flight is the mode. May be asked of an engine that is paused. */
  pause(mode: PauseMode, options: CallOptions): Promise<void>;
  /** Goes on generating. */
  resume(options: CallOptions): Promise<void>;
  /**
   * Asks the engine's workers to connect to their worker links; resolves when all of them have installed the
   * weights and run their post-hook, and the engine has dropped its prefix cache if it was asked to.
   */
  update(order: EngineUpdate, options: CallOptions): Promise<void>;
  close(): Promise<void>;
}

export interface EngineUpdate {
  /** Device uuid to the address of that device's worker link. */
  readonly links: Readonly<Record<string, string>>;
  /** `checkpoint@digest`, for engines that say what they serve. */
  readonly version: string;
  /** What was computed with the old weights must not be used with the new ones. */
  readonly resetCache: boolean;
}

export interface CallOptions {
  readonly timeoutMilliseconds: number;
  readonly signal: AbortSignal;
}

/**
 * What becomes of requests in flight while an engine is paused. vLLM: `abort` ends them, `wait` lets them end, `keep`
 * goes on with them afterwards. SGLang: `abort` ends them, `retract` computes them anew afterwards, `in_place` goes
 * on with them.
 */
export const pauseModes = {
  vllm: ['abort', 'wait', 'keep'],
  sglang: ['abort', 'retract', 'in_place'],
} as const;
export type EngineKind = keyof typeof pauseModes;
export type PauseMode = (typeof pauseModes)[EngineKind][number];

export const engineKinds = ['vllm', 'sglang'] as const satisfies readonly EngineKind[];
export const allPauseModes = ['abort', 'wait', 'keep', 'retract', 'in_place'] as const satisfies PauseMode[];

/** What the engine's workers speak: weightcast's own worker link, or that of checkpoint-engine's extension. */
export const linkKinds = ['weightcast', 'checkpoint-engine'] as const;
export type LinkKind = (typeof linkKinds)[number];
