/**
 * The port to one inference engine's HTTP face. One instance has one client; nobody else calls the engine's update
 * route. All methods reject with `EngineError` (the engine's own words in it), `DeadlineError` or `AbortedError`.
 */
export interface EngineClient {
  /** For messages to people: the endpoint. */
  readonly endpoint: string;
  /** Resolves when the engine answers its health route; asks again until the deadline. */
  ready(options: CallOptions): Promise<void>;
  /**
   * Asks the engine's workers to connect to their worker links; resolves when all of them have installed the
   * weights and run their post-hook. `links` maps device uuid to the address of that device's worker link.
   */
  update(links: Readonly<Record<string, string>>, options: CallOptions): Promise<void>;
  close(): Promise<void>;
}

export interface CallOptions {
  readonly timeoutMilliseconds: number;
  readonly signal: AbortSignal;
}
