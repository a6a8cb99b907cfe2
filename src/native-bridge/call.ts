import {
  AbortedError,
  CheckpointError,
  DeadlineError,
  DeviceLostError,
  NativeError,
  OutOfDeviceMemoryError,
  OutOfHostMemoryError,
  OverloadedError,
  PeerLostError,
  WeightcastError,
} from '../errors.ts';

const classOfCode = new Map<unknown, new (message: string, options: ErrorOptions) => WeightcastError>([
  ['OUT_OF_DEVICE_MEMORY', OutOfDeviceMemoryError],
  ['ENOSPC', OutOfHostMemoryError],
  ['DEVICE_LOST', DeviceLostError],
  ['ABORTED', AbortedError],
  ['DEADLINE', DeadlineError],
  ['PEER_LOST', PeerLostError],
  ['OVERLOADED', OverloadedError],
  ['FILE_ENDED', CheckpointError],
]);

/** Gives an error of the addon its class, `NativeError` if no other fits; other values pass unchanged. */
export function asWeightcastError(error: unknown): unknown {
  if (error instanceof WeightcastError || !(error instanceof Error) || !('code' in error)) return error;
  const Class = classOfCode.get(error.code) ?? NativeError;
  return new Class(error.message, { cause: error });
}

/** Calls native code; an error has its class. */
export function callNative<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw asWeightcastError(error);
  }
}

/** As {@link callNative}, for a promise of native code. */
export async function awaitNative<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    throw asWeightcastError(error);
  }
}
