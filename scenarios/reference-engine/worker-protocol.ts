import type { WireError } from '../../src/errors.ts';

/**
 * What the server and its workers say to each other on the channel between parent and child. The server calls a
 * method, the worker answers, in whatever order it gets done. Both are parts of one program that starts together,
 * so the types are all the checking there is.
 */
export interface WorkerMethods {
  /** Takes part in an update: connects to the rank at `address` and does what it says until it is done. */
  receiveWeights(call: { address: string; timeoutMilliseconds: number }): { epoch: number; version: string };
  /** What the worker's parameters hold now. */
  digestWeights(call: object): HeldWeights;
  /** Bytes of the worker's device. */
  deviceMemory(call: object): { free: number; total: number };
  /** Writes this worker's parts of all tensors into the file that the server laid out. */
  writeParts(call: { path: string }): null;
  /** This worker's share in each of some words that follow the prompt: numbers below 2^32. */
  partialSums(call: { prompt: string; from: number; steps: number }): number[];
}

export type WorkerMethod = keyof WorkerMethods;
export type CallOf<M extends WorkerMethod> = Parameters<WorkerMethods[M]>[0];
export type ResultOf<M extends WorkerMethod> = ReturnType<WorkerMethods[M]>;

/** A row for each tensor of the model, as `ArrivedDigests`; digests in hexadecimal. */
export interface HeldWeights {
  readonly names: readonly string[];
  readonly digests: readonly string[];
  readonly part: readonly number[];
  readonly parts: readonly number[];
}

export interface WorkerCall {
  readonly id: number;
  readonly method: WorkerMethod;
  readonly call: object;
}

export type WorkerMessage =
  /** The parameters are allocated. */
  | { readonly type: 'ready'; readonly deviceUuid: string }
  /** The worker could not start; it waits to be stopped. */
  | { readonly type: 'failed'; readonly error: WireError }
  | { readonly type: 'result'; readonly id: number; readonly result: unknown }
  | { readonly type: 'error'; readonly id: number; readonly error: WireError };

/** What the server tells the process that started it. */
export type ServerMessage =
  | {
      readonly type: 'ready';
      readonly endpoint: string;
      readonly deviceUuids: readonly string[];
      readonly workerPids: readonly number[];
    }
  | { readonly type: 'failed'; readonly error: WireError };
