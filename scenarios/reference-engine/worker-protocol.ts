import type { WireError } from '../../src/errors.ts';

/**
 * The protocol between the server and its workers, on the IPC channel between parent and child. The server calls methods,
 * and the worker answers in any order. Both ends always run the same code, so messages are not validated at run time.
 */
export interface WorkerMethods {
  /** Takes part in an update: connects to the rank at `address` and serves its requests until the update ends. */
  receiveWeights(call: { address: string; timeoutMilliseconds: number }): { epoch: number; version: string };
  /** Says what the worker holds to a `SurveySocket`. */
  survey(call: { address: string }): null;
  /** Digests of the worker's parameters. */
  digestWeights(call: object): HeldWeights;
  /** Bytes of the worker's device. */
  deviceMemory(call: object): { free: number; total: number };
  /** Writes this worker's parts of all tensors into the file that the server has created. */
  writeParts(call: { path: string }): null;
  /** This worker's contribution to each of the words that follow the prompt: numbers below 2^32. */
  partialSums(call: { prompt: string; from: number; steps: number }): number[];
}

export type WorkerMethod = keyof WorkerMethods;
export type CallOf<M extends WorkerMethod> = Parameters<WorkerMethods[M]>[0];
export type ResultOf<M extends WorkerMethod> = ReturnType<WorkerMethods[M]>;

/** One row per tensor of the model, as in `InstalledReport`; digests in hexadecimal. */
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

/** Messages of the server to its parent. */
export type ServerMessage =
  | {
      readonly type: 'ready';
      readonly endpoint: string;
      readonly deviceUuids: readonly string[];
      readonly workerPids: readonly number[];
    }
  | { readonly type: 'failed'; readonly error: WireError };
