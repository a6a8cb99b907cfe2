import type { Dealer, Router } from 'zeromq';
import { describe } from '../errors.ts';
import type { Logger } from '../ports.ts';
import { headerBytes } from './frames.ts';
import type { TransportLimits } from './limits.ts';

/** How long ZeroMQ may keep sending after `close`, at most; the process cannot exit before. */
const longestLinger = 200;
/** Frames in addition to a window of messages: pings, answers, byes. */
const controlFrames = 256;
/** ZeroMQ counts what CURVE adds to a message: a name, a nonce, flags and a MAC, 33 bytes. */
const curveBytes = 64;
/** What `send` rejects with when the peer's connection is gone or full. */
const notTaken = new Set(['EAGAIN', 'EHOSTUNREACH']);

/**
 * Options of both kinds of socket. With a send timeout of 0, zeromq.js sends within the call and never queues: the
 * promise is settled when `send` returns, so that sends may follow each other without waiting.
 */
export function socketOptions(limits: TransportLimits) {
  const highWaterMark = limits.windowMessages + controlFrames;
  return {
    linger: 0,
    // And IPv4, as before.
    ipv6: true,
    sendTimeout: 0,
    sendHighWaterMark: highWaterMark,
    receiveHighWaterMark: highWaterMark,
    maxMessageSize: limits.frameBytes + headerBytes + curveBytes,
  };
}

/** Sends at once. False when there is no connection or the socket is closed. */
export async function transmit(
  socket: Router | Dealer,
  parts: (string | Uint8Array)[],
  log: Logger,
): Promise<boolean> {
  try {
    await socket.send(parts);
    return true;
  } catch (error) {
    if (!socket.closed && !notTaken.has((error as NodeJS.ErrnoException).code ?? '')) {
      log.error({ error }, `ZeroMQ did not send: ${describe(error)}`);
    }
    return false;
  }
}

/** Closes; what ZeroMQ still holds is sent in the background for at most `milliseconds`. */
export function closeLingering(socket: Router | Dealer, milliseconds: number): void {
  if (socket.closed) return;
  socket.linger = Math.max(0, Math.min(longestLinger, Math.floor(milliseconds)));
  socket.close();
}
