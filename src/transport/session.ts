import type { Envelope } from '../actors/kernel/transport.ts';
import { describe, OverloadedError, ProtocolError } from '../errors.ts';
import type { Logger } from '../ports.ts';
import { encode, decode } from './codec.ts';
import { parseEnvelope } from './envelope-schema.ts';
import { controlFrame, type Frame, headerBytes, messageFrame, parsePayload } from './frames.ts';
import type { TransportLimits } from './limits.ts';
import type { TransportCounters } from './counters.ts';

/** After so much received it is acknowledged at once, well before a sender's window is full; else with the next ping. */
const acknowledgeMessages = 64;
const acknowledgeBytes = 256 * 1024;
/** ZeroMQ reconnects within a second; a connection still gone after this many pings is gone with its process. */
const unreachablePings = 2;

export interface SessionOptions {
  /** The node at the other end. */
  readonly peer: string;
  readonly id: number;
  readonly limits: TransportLimits;
  readonly counters: TransportCounters;
  readonly log: Logger;
  /** Hands a frame to ZeroMQ at once, or rejects at once when there is no connection. */
  readonly transmit: (frame: Uint8Array) => Promise<void>;
  readonly deliver: (envelope: Envelope) => void;
}

/** How a session came to its end: the peer said bye, or is lost to us. */
export interface Ending {
  readonly kind: 'bye' | 'lost';
  readonly reason: string;
}

/**
 * One end of the conversation between a hub and a spoke: the queue, the window, the order and the liveness of it.
 * It knows no socket and no time; its owner feeds it frames and ticks.
 *
 * What ZeroMQ holds cannot be taken back nor counted, so little is given to it: a window of messages that the peer has
 * not acknowledged, always fewer than ZeroMQ's high-water mark. The mark is therefore never met, and a frame that
 * ZeroMQ does not take means that there is no connection.
 */
export class Session {
  readonly peer: string;
  readonly id: number;
  readonly #options: SessionOptions;
  readonly #lostPings: number;

  readonly #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #queuedEver = 0;
  #sentMessages = 0;
  #sentBytes = 0;
  #acknowledgedMessages = 0;
  #acknowledgedBytes = 0;

  #receivedMessages = 0;
  #receivedBytes = 0;
  #announcedMessages = 0;
  #announcedBytes = 0;

  #pumping = false;
  #aliveDue = false;
  #bye: 'none' | 'due' | 'sent' = 'none';
  #byeReason = '';
  #ended = false;
  #finished = Promise.withResolvers<void>();

  #silentPings = 0;
  #unreachable = false;
  #unreachablePings = 0;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.peer = options.peer;
    this.id = options.id;
    const { lostAfterMilliseconds, pingEveryMilliseconds } = options.limits;
    this.#lostPings = Math.ceil(lostAfterMilliseconds / pingEveryMilliseconds);
  }
