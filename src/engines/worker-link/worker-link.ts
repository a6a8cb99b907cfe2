/**
 * The port from a rank to the engine worker on its device: one exchange per update, request and answer in turn, from
 * {@link open} to {@link finish}. Where an engine takes the weights once more for a draft model, another exchange may
 * follow on the same address: the next `open` waits for the worker of the last one to leave, and for the next to come.
 * Every method rejects with `WorkerLinkError` (the worker's own traceback in it), `DeadlineError`, or
 * `AbortedError` once {@link abort} was called. Each request waits at most the timeout given when the link was
 * bound; the first one includes the worker's connecting.
 */
export interface WorkerLink {
  /** What the engine is told to connect to. */
  readonly address: string;
  /**
   * Throws a `CheckpointError` that names the first tensor which workers of this link cannot take. Asks nobody, so it
   * may come before an engine is touched.
   */
  check(tensors: Iterable<LinkTensor>): void;
  /** Hands the worker the buffer that all buckets come in; resolves when the worker has opened it. */
  open(buffer: LinkBuffer): Promise<void>;
  /** Announces a bucket; resolves when the worker no longer reads that part of the buffer. */
  load(tensors: readonly LinkTensor[]): Promise<void>;
  /** Makes the worker drop the buffer; only after this may its memory be freed. */
  release(): Promise<void>;
  /** Makes the worker run its post-hook; resolves with what it says it installed, or null if it cannot say. */
  finish(): Promise<ArrivedDigests | null>;
  /** Ends the exchange from this side: the worker is told why if it still listens. Never rejects. */
  abort(reason: string): Promise<void>;
  /** Closes the socket. May be called twice. */
  close(): void;
}

export interface LinkBuffer {
  /** `DeviceBuffer.ipcHandle`. */
  readonly handle: Uint8Array;
  readonly bytes: number;
}

export interface LinkTensor {
  readonly name: string;
  /** As the safetensors format names it. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** From the start of the link buffer, a multiple of 256. */
  readonly offset: number;
}

/**
 * What a worker holds after an update, a row for each tensor in the order they were announced. A worker may hold a
 * tensor whole (`parts` 1), one of several parts of it, or nothing of it (`parts` 0); the digests of a tensor's
 * parts add up to the tensor's digest (native/memory/digest.h).
 */
export interface ArrivedDigests {
  readonly digests: BigUint64Array;
  readonly part: Uint16Array;
  readonly parts: Uint16Array;
}
