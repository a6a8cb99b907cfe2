/**
 * Every failure weightcast reports has one class and one stable `code`.
 *
 * Messages are one line, written for the person who has to act: they name the file, tensor, rank or option.
 * An error keeps its class when it crosses a process: {@link toWire} flattens it, {@link fromWire} revives it.
 */
export class WeightcastError extends Error {
  /** Stable identifier, safe to match on. */
  readonly code: string = 'WEIGHTCAST_INTERNAL';
  /** What a command line ends with when this error reaches it. */
  readonly exitCode: number = 1;
  override readonly name: string = 'WeightcastError';
}

/** An option or an argument of the API or of the command line is wrong. */
export class UsageError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_USAGE';
  override readonly exitCode = 2;
  override readonly name = 'UsageError';
}

/** A checkpoint cannot be read: names the file, and the tensor where one is at fault. */
export class CheckpointError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_CHECKPOINT';
  override readonly exitCode = 2;
  override readonly name = 'CheckpointError';
}

/** Not even serial mode can hold the largest tensor: names the tensor, its bytes, the rank and what is free. */
export class MemoryError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_MEMORY';
  override readonly exitCode = 2;
  override readonly name = 'MemoryError';
}

/** A device refused an allocation; the planner answers it with a smaller plan. */
export class OutOfDeviceMemoryError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_OUT_OF_DEVICE_MEMORY';
  override readonly name = 'OutOfDeviceMemoryError';
}

/** Shared memory cannot hold a segment: names the segment, its bytes and what is free. */
export class OutOfHostMemoryError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_OUT_OF_HOST_MEMORY';
  override readonly name = 'OutOfHostMemoryError';
}

/** A GPU failed so that no call on it will succeed any more in this process: the process must be restarted. */
export class DeviceLostError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_DEVICE_LOST';
  override readonly name = 'DeviceLostError';
}

/** A call into the addon failed; carries the operating system's own words. */
export class NativeError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_NATIVE';
  override readonly name = 'NativeError';
}

/** A wait reached its deadline. */
export class DeadlineError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_DEADLINE';
  override readonly name = 'DeadlineError';
}

/** The work was cancelled by its owner: a Ctrl-C, a `stop`, a newer epoch. */
export class AbortedError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_ABORTED';
  override readonly name = 'AbortedError';
}

/** A process that takes part died, vanished or stopped answering. */
export class PeerLostError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_PEER_LOST';
  override readonly name = 'PeerLostError';
}

/** A message was addressed to an actor that has stopped or never was. */
export class ActorStoppedError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_ACTOR_STOPPED';
  override readonly name = 'ActorStoppedError';
}

/** A bounded mailbox or a socket at its high-water mark refused a message. */
export class OverloadedError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_OVERLOADED';
  override readonly name = 'OverloadedError';
}

/** A message from another process does not have the form its receiver declares. */
export class ProtocolError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_PROTOCOL';
  override readonly name = 'ProtocolError';
}

/** An inference engine answered an HTTP request with an error, or did not answer. */
export class EngineError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_ENGINE';
  override readonly name = 'EngineError';
}

/** An engine worker answered on the worker link with a traceback, or stopped answering. */
export class WorkerLinkError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_WORKER_LINK';
  override readonly name = 'WorkerLinkError';
}

/** An engine worker holds other bytes than the checkpoint: names the tensor and the instance. */
export class VerificationError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_VERIFICATION';
  override readonly name = 'VerificationError';
}

const classes = [
  UsageError,
  CheckpointError,
  MemoryError,
  OutOfDeviceMemoryError,
  OutOfHostMemoryError,
  DeviceLostError,
  NativeError,
  DeadlineError,
  AbortedError,
  PeerLostError,
  ActorStoppedError,
  OverloadedError,
  ProtocolError,
  EngineError,
  WorkerLinkError,
  VerificationError,
];
const classOfCode = new Map(classes.map((type) => [new type('').code as string, type]));

/** An error as it crosses a process. */
export interface WireError {
  readonly code: string;
  readonly message: string;
}

export function toWire(error: unknown): WireError {
  if (error instanceof WeightcastError) return { code: error.code, message: error.message };
  return { code: 'WEIGHTCAST_INTERNAL', message: describe(error) };
}

export function fromWire(wire: WireError): WeightcastError {
  const type = classOfCode.get(wire.code) ?? WeightcastError;
  return new type(wire.message);
}

/** Anything that was thrown, as an error that can be reported: its own class if it has one. */
export function asFailure(thrown: unknown): WeightcastError {
  return thrown instanceof WeightcastError
    ? thrown
    : new WeightcastError(describe(thrown), { cause: thrown });
}

/** One line for anything that was thrown: handlers may throw what they like. */
export function describe(thrown: unknown): string {
  if (thrown instanceof Error) return thrown.message || thrown.name;
  try {
    return String(thrown);
  } catch {
    return 'a value that cannot be printed';
  }
}
