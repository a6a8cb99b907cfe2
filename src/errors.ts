import type { InstanceReport } from './actors/protocol/update-values.ts';
import { escapeControls } from './checkpoint/printable.ts';

/**
 * Every failure weightcast reports has one class and one stable `code`.
 *
 * Messages are one line and name what is at fault: the file, tensor, host, rank, instance or option.
 * An error keeps its class when it crosses a process: {@link toWire} flattens it, {@link fromWire} revives it.
 */
export class WeightcastError extends Error {
  /** Stable identifier, safe to match on. */
  readonly code: string = 'WEIGHTCAST_INTERNAL';
  /** Exit code of the command line when this error ends it. */
  readonly exitCode: number = 1;
  override readonly name: string = 'WeightcastError';
  /** Of an update that has failed: what became of each instance. */
  declare readonly instances?: readonly InstanceReport[];

  /** What engines, files and names have put into the message moves no terminal's cursor, and adds no line. */
  constructor(message: string, options?: ErrorOptions) {
    super(escapeControls(message.trim().replace(/\s*[\r\n]+\s*/g, ' ')), options);
  }
}

/** An option or an argument of the API or of the command line is wrong. */
export class UsageError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_USAGE';
  override readonly exitCode = 2;
  override readonly name = 'UsageError';
}

/** A daemon keeps no checkpoint, instance or update of this name. */
export class NotFoundError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_NOT_FOUND';
  override readonly exitCode = 2;
  override readonly name = 'NotFoundError';
}

/** A daemon does not allow it: a wrong token, a file outside its roots, an engine that is not on its list. */
export class AccessError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_ACCESS';
  override readonly exitCode = 2;
  override readonly name = 'AccessError';
}

/** A checkpoint cannot be read: names the file, and the tensor where one is at fault. */
export class CheckpointError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_CHECKPOINT';
  override readonly exitCode = 2;
  override readonly name = 'CheckpointError';
}

/** Another registration or update is using what this one needs: retry when that has ended. */
export class BusyError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_BUSY';
  override readonly name = 'BusyError';
}

/**
 * A rank that this needs is starting, or is being started again: retry when the status says that it is ready. Or a daemon
 * cannot be reached, or is starting its cluster again.
 */
export class NotReadyError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_NOT_READY';
  override readonly name = 'NotReadyError';
}

/** A device has too little free memory, even for serial mode: names the rank, and the largest tensor if that does not fit. */
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

/** After this failure of a GPU no call on it succeeds in this process any more: the process must be restarted. */
export class DeviceLostError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_DEVICE_LOST';
  override readonly name = 'DeviceLostError';
}

/** A call into the addon failed; the message has the operating system's or the driver's description. */
export class NativeError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_NATIVE';
  override readonly name = 'NativeError';
}

/** A wait reached its deadline. */
export class DeadlineError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_DEADLINE';
  override readonly name = 'DeadlineError';
}

/** The work was cancelled: by Ctrl-C, `stop`, or a newer epoch. */
export class AbortedError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_ABORTED';
  override readonly name = 'AbortedError';
}

/** A process of the cluster died, or stopped answering. */
export class PeerLostError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_PEER_LOST';
  override readonly name = 'PeerLostError';
}

/** The same may succeed a moment later: other work is in the way, or a process is being started again. */
export function mayPass(error: unknown): boolean {
  return error instanceof BusyError || error instanceof NotReadyError || error instanceof PeerLostError;
}

/** A message was addressed to an actor that has stopped, or never existed. */
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

/** An inference engine answered an HTTP request with an error, or could not be reached. */
export class EngineError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_ENGINE';
  override readonly name = 'EngineError';
}

/** An engine worker answered on the worker link with a traceback, or stopped answering. */
export class WorkerLinkError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_WORKER_LINK';
  override readonly name = 'WorkerLinkError';
}

/**
 * An engine worker does not know of the parts that it was to get: it was restarted, or keeps others now. Nothing was loaded, and
 * the update goes on with whole tensors.
 */
export class PartsRefusedError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_PARTS_REFUSED';
  override readonly name = 'PartsRefusedError';
}

/** Digests from engine workers differ from the checkpoint's: names the tensor and the instance. */
export class VerificationError extends WeightcastError {
  override readonly code = 'WEIGHTCAST_VERIFICATION';
  override readonly name = 'VerificationError';
}

const classes = [
  UsageError,
  BusyError,
  NotFoundError,
  AccessError,
  NotReadyError,
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
  PartsRefusedError,
  VerificationError,
];
const classOfCode = new Map(classes.map((type) => [new type('').code as string, type]));

/** An error in a message between processes. */
export interface WireError {
  readonly code: string;
  readonly message: string;
  /** As {@link WeightcastError.instances}. */
  readonly instances?: readonly InstanceReport[] | undefined;
}

export function toWire(error: unknown): WireError {
  if (error instanceof WeightcastError) {
    const { code, message, instances } = error;
    return { code, message, ...(instances !== undefined && { instances }) };
  }
  return { code: 'WEIGHTCAST_INTERNAL', message: describe(error) };
}

export function fromWire(wire: WireError): WeightcastError {
  const type = classOfCode.get(wire.code) ?? WeightcastError;
  const error = new type(wire.message);
  return wire.instances === undefined ? error : Object.assign(error, { instances: wire.instances });
}

/** Any thrown value as a `WeightcastError`: itself if it is one. */
export function asFailure(thrown: unknown): WeightcastError {
  return thrown instanceof WeightcastError
    ? thrown
    : new WeightcastError(describe(thrown), { cause: thrown });
}

/** The message of any thrown value. */
export function describe(thrown: unknown): string {
  if (thrown instanceof Error) return thrown.message || thrown.name;
  try {
    return String(thrown);
  } catch {
    return 'a value that cannot be printed';
  }
}
