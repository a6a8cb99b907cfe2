import type { Cuts } from '../../checkpoint/cuts.ts';

/**
 * The port from a rank to the engine worker on its device: one exchange per update, from {@link open} to {@link finish}.
 * One request at a time, but for those that say otherwise. If the engine takes the weights again for a draft model, another exchange follows on the same
 * address: its `open` waits until the last worker has disconnected and the next one is connected. Every method rejects with
 * `WorkerLinkError` (with the worker's traceback), `DeadlineError`, or `AbortedError` once {@link abort} was called. Each
 * answer may take as long as was given when the link was bound, counted from the request or from the answer before it; for
 * the first one that includes the worker's connecting.
 */
export interface WorkerLink {
  /** Address for the engine worker to connect to. */
  readonly address: string;
  /** Whether workers of this link can say what they received. */
  readonly reports: boolean;
  /**
   * Throws a `CheckpointError` that names the first tensor which workers of this link cannot take. Sends nothing, so it can
   * be called before the update is triggered.
   */
  check(tensors: Iterable<LinkTensor>): void;
  /** Hands the worker the link buffer; resolves when the worker has opened it. */
  open(buffer: LinkBuffer): Promise<void>;
  /** Buckets may be announced while the worker still loads earlier ones. */
  readonly takesSeveral: boolean;
  /**
   * Announces a bucket, whose bytes are in the buffer; resolves when the worker no longer reads that part of it. Workers
   * answer in the order of these calls.
   */
  load(tensors: readonly LinkTensor[]): Promise<void>;
  /** Makes the worker drop the buffer; only after this may its memory be freed. */
  release(): Promise<void>;
  /** Makes the worker run its post-hook; resolves with the digests of what arrived, or null if it computes none. */
  finish(): Promise<ArrivedDigests | null>;
  /** After {@link finish}: what the worker says that its model holds now. Null if it was not asked, or does not say. */
  readonly live: LiveDigests | null;
  /** After {@link finish}: what the worker keeps of each tensor, if it has recorded that in this exchange. */
  readonly kept: KeptParts | null;
  /** Ends the exchange from this side, and sends the reason to a worker that is connected. Never rejects. */
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
  /** Only this part is there, packed: dimension, start and length. Absent: the whole tensor. `shape` is that of the whole. */
  readonly part?: readonly [dim: number, start: number, length: number] | undefined;
}

/** What a worker keeps of each tensor that was announced to it, whole, in one exchange; in the order of the announcement. */
export interface KeptParts {
  /** The worker's name for this. One that has another, or none, takes no parts. */
  readonly token: string;
  readonly cuts: Cuts;
}

/**
 * Digests of the bytes that a worker received in an update, one row per tensor in the order of their announcement. A worker
 * may take a tensor whole (`parts` 1), one of several parts (index `part`), or nothing of it (`parts` 0). The digests of a
 * tensor's parts add up to the tensor's digest (native/memory/digest.h).
 */
export interface ArrivedDigests {
  readonly digests: BigUint64Array;
  readonly part: Uint16Array;
  readonly parts: Uint16Array;
}

/**
 * Digests of every tensor that an engine worker's model computes with, as they lie in its memory after an update: parameters,
 * buffers, and packed copies that layers keep elsewhere. Comparable among workers of the same place.
 */
export interface LiveDigests {
  /** What decides about what a worker holds: engine and version, GPU, kernels, its rank in each way of parallelism. */
  readonly place: Readonly<Record<string, string | number>>;
  /** Whether every parameter was written in the update, as far as the engine knows what a checkpoint has. */
  readonly coverage: 'complete' | 'unknown';
  /** The same for the same names, in hexadecimal. */
  readonly layout: string;
  /** One per name. */
  readonly digests: BigUint64Array;
  /** Each with its dtype, shape and strides. Null if whoever asked knows those of the layout. */
  readonly names: readonly string[] | null;
}
