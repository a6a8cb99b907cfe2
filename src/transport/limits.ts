import { UsageError } from '../errors.ts';

/**
 * Limits of a transport, per peer unless stated otherwise. A message first waits in the queue; at most a window of
 * messages is in flight, handed to ZeroMQ and not yet acknowledged by the peer. So a peer that stops reading delays
 * no other peer, and costs at most queue, window and one message. A long message travels in frames, so that neither pings
 * nor other peers wait for it.
 */
export interface TransportLimits {
  readonly queueMessages: number;
  /** With more than this waiting nothing more is taken. */
  readonly queueBytes: number;
  readonly windowMessages: number;
  readonly windowBytes: number;
  /** Bytes of one message, encoded: more than the manifest of the largest checkpoint has. */
  readonly messageBytes: number;
  /** Bytes of a message that travel at once. */
  readonly frameBytes: number;
  /** Spokes that a hub serves at once. */
  readonly peers: number;
  /** How often each side shows the other that its event loop runs. */
  readonly pingEveryMilliseconds: number;
  /**
   * Silence after which a peer is lost for good. Counted in our own pings, so that time in which this process itself
   * was blocked does not count.
   */
  readonly lostAfterMilliseconds: number;
}

export const defaultLimits: TransportLimits = {
  queueMessages: 16_384,
  queueBytes: 64 * 1024 * 1024,
  windowMessages: 1_024,
  windowBytes: 16 * 1024 * 1024,
  messageBytes: 512 * 1024 * 1024,
  frameBytes: 1024 * 1024,
  peers: 1_024,
  pingEveryMilliseconds: 1_000,
  lostAfterMilliseconds: 10_000,
};

/** Fills in the defaults. Throws a `UsageError` for anything but positive whole numbers. */
export function completeLimits(given: Partial<TransportLimits> = {}): TransportLimits {
  const limits = { ...defaultLimits, ...given };
  for (const [name, value] of Object.entries(limits)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new UsageError(`transport limit ${name} is ${value}: expected a positive whole number`);
    }
  }
  if (limits.lostAfterMilliseconds < 2 * limits.pingEveryMilliseconds) {
    throw new UsageError('transport limit lostAfterMilliseconds is less than two pings');
  }
  return limits;
}

/**
 * What the environment says of limits: `WEIGHTCAST_SILENCE_SECONDS` for `lostAfterMilliseconds`, where processes may be
 * stopped or starved of a processor for longer than 10 s. Throws `UsageError`.
 */
export function limitsOf(environment: NodeJS.ProcessEnv): Partial<TransportLimits> {
  const value = environment.WEIGHTCAST_SILENCE_SECONDS;
  if (value === undefined) return {};
  const seconds = Number(value);
  if (!Number.isSafeInteger(seconds) || seconds < 2 || seconds > 86_400)
    throw new UsageError(
      `WEIGHTCAST_SILENCE_SECONDS is ${JSON.stringify(value)}: expected whole seconds from 2 to 86400`,
    );
  return { lostAfterMilliseconds: 1_000 * seconds };
}
