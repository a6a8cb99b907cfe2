import type { Envelope } from '../actors/kernel/transport.ts';
import { OverloadedError, ProtocolError } from '../errors.ts';
import type { Logger } from '../ports.ts';
import { decode, encodeShared } from './codec.ts';
import type { TransportCounters } from './counters.ts';
import { parseEnvelope } from './envelope-schema.ts';
import { controlFrame, type Frame, headerBytes, messageFrames, parsePayload } from './frames.ts';
import type { TransportLimits } from './limits.ts';

/** The part of a window after which the receiver acknowledges at once; less waits for the next ping. */
const acknowledgedPart = 1 / 16;
/** ZeroMQ reconnects within a second; when a connection is down for this many pings, the process has ended. */
const unreachablePings = 2;

export interface SessionOptions {
  /** The node at the other end. */
  readonly peer: string;
  readonly id: number;
  readonly limits: TransportLimits;
  /** The peer is not lost for its silence alone. */
  readonly mayBeSilent?: boolean;
  readonly counters: TransportCounters;
  readonly log: Logger;
  /** Hands a frame to ZeroMQ; false when there is no connection. Never rejects. */
  readonly transmit: (frame: Uint8Array) => Promise<boolean>;
  readonly deliver: (envelope: Envelope) => void;
}

/** Why a session ended. */
export interface Ending {
  readonly kind: 'bye' | 'lost';
  readonly reason: string;
}

/**
 * One end of a connection between a hub and a spoke: its queue, window, order and liveness. It uses no socket and no
 * clock; its owner passes it frames and pings.
 *
 * Messages that ZeroMQ holds can be neither counted nor taken back, so it gets only a window of messages that the
 * peer has not acknowledged, always below its high-water mark. The mark is never reached, so a frame that ZeroMQ
 * refuses means that there is no connection.
 */
export class Session {
  readonly peer: string;
  readonly id: number;
  readonly #options: SessionOptions;
  readonly #limits: TransportLimits;

  /** Frames not yet handed to ZeroMQ, with their positions written. */
  readonly #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  readonly #sent = { messages: 0, bytes: 0 };
  #acknowledged = { messages: 0, bytes: 0 };
  readonly #received = { messages: 0, bytes: 0 };
  /** Of a message that has not arrived whole. */
  readonly #parts: Uint8Array[] = [];
  #announced = { messages: 0, bytes: 0 };

  #pumping = false;
  #aliveDue = false;
  #bye: { readonly reason: string; sent: boolean } | null = null;
  #over = false;
  #whenOver: (() => void)[] = [];

  #silentPings = 0;
  #isUnreachable = false;
  #unreachablePings = 0;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#limits = options.limits;
    this.peer = options.peer;
    this.id = options.id;
  }

  /** Throws `OverloadedError` when the queue is full and `ProtocolError` for what cannot be encoded. */
  send(envelope: Envelope): void {
    // Copied into frames at once.
    const payload = encodeShared(envelope);
    if (payload.byteLength > this.#limits.messageBytes) {
      throw new ProtocolError(
        `a message of ${payload.byteLength} bytes to ${this.peer} exceeds ${this.#limits.messageBytes} bytes`,
      );
    }
    const { queueMessages, queueBytes, frameBytes } = this.#limits;
    if (this.#queue.length >= queueMessages || this.#queuedBytes >= queueBytes) {
      throw new OverloadedError(
        `the queue to ${this.peer} is full: ${this.#queue.length} messages, ${this.#queuedBytes} bytes wait`,
      );
    }
    const position = this.#sent.messages + this.#queue.length;
    for (const frame of messageFrames(this.id, position, payload, frameBytes)) {
      this.#queue.push(frame);
      this.#queuedBytes += frame.byteLength;
    }
    void this.#pump();
  }

  /**
   * Handles a frame of this session; kinds may come in any order. Returns the ending if the frame ends the session.
   */
  accept(frame: Frame): Ending | null {
    if (this.#over) return null;
    if (frame.kind === 'bye-ack') {
      if (this.#bye?.sent) this.end();
      return null;
    }
    if (frame.position !== this.#received.messages) return { kind: 'lost', reason: this.#describeGap(frame) };
    this.heard();
    try {
      switch (frame.kind) {
        case 'part':
        case 'message':
          this.#acceptMessage(frame);
          return null;
        case 'alive':
          this.#acceptAlive(frame);
          return null;
        case 'bye':
          return { kind: 'bye', reason: `said bye: ${parsePayload('bye', frame).reason}` };
        default:
          throw new ProtocolError(`a ${frame.kind} frame in a session`);
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#options.counters.malformed += 1;
      this.#options.log.warn({ peer: this.peer }, `dropped: ${error.message}`);
      return null;
    }
  }

  /** The peer was heard: it lives and the connection works. */
  heard(): void {
    this.#silentPings = 0;
    const wasUnreachable = this.#isUnreachable;
    this.#reached();
    if (wasUnreachable) void this.#pump();
  }

  /** Call it every `pingEveryMilliseconds`. Returns an ending when the peer is lost. */
  ping(): Ending | null {
    const { lostAfterMilliseconds, pingEveryMilliseconds } = this.#limits;
    if (this.#isUnreachable) this.#unreachablePings += 1;
    if (this.#unreachablePings >= unreachablePings) return { kind: 'lost', reason: 'its connection is gone' };
    this.#silentPings += 1;
    if (!this.#options.mayBeSilent && this.#silentPings * pingEveryMilliseconds >= lostAfterMilliseconds) {
      return { kind: 'lost', reason: `silent for ${this.#silentPings * pingEveryMilliseconds} ms` };
    }
    this.#aliveDue = true;
    void this.#pump();
    return null;
  }

  /** Says bye after everything queued. Resolves when the peer has received everything, or the session ends. */
  finish(reason: string): Promise<void> {
    this.#bye ??= { reason, sent: false };
    void this.#pump();
    return new Promise((resolve) => {
      if (this.#over) resolve();
      else this.#whenOver.push(resolve);
    });
  }

  /**
   * Ends the session and notifies the peer if it is connected: with a bye-ack after its bye, otherwise with a bye.
   */
  part(ending: Ending): void {
    const frame =
      ending.kind === 'bye'
        ? controlFrame('bye-ack', this.id, this.#sent.messages, {})
        : controlFrame('bye', this.id, this.#sent.messages, {
            reason: `declared this node lost: ${ending.reason}`,
          });
    void this.#options.transmit(frame);
    this.end();
  }

  /** Drops the queue; nothing is sent or accepted from now on. */
  end(): void {
    this.#over = true;
    this.#queue.length = 0;
    this.#parts.length = 0;
    this.#queuedBytes = 0;
    for (const resolve of this.#whenOver.splice(0)) resolve();
  }

  /**
   * The only sender of this session: it waits until ZeroMQ took a frame before it hands over the next. A refused
   * frame stays first in the queue until the peer is heard or the next ping.
   */
  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    let outcome: 'taken' | 'refused' | 'nothing' = 'taken';
    while (outcome === 'taken' && !this.#over) {
      outcome = await this.#transmitNext();
      if (outcome === 'taken') this.#reached();
    }
    if (outcome === 'refused') this.#isUnreachable = true;
    this.#pumping = false;
  }

  async #transmitNext(): Promise<'taken' | 'refused' | 'nothing'> {
    let isTaken: boolean;
    if (this.#aliveDue) isTaken = await this.#transmitAlive();
    else if (this.#queue.length > 0 && this.#isWindowOpen()) isTaken = await this.#transmitMessage();
    else if (this.#queue.length === 0 && this.#bye?.sent === false)
      isTaken = await this.#transmitBye(this.#bye);
    else return 'nothing';
    return isTaken ? 'taken' : 'refused';
  }

  async #transmitAlive(): Promise<boolean> {
    this.#aliveDue = false;
    this.#announced = { ...this.#received };
    const { messages: receivedMessages, bytes: receivedBytes } = this.#received;
    // A refused `alive` is not sent again: the next one supersedes it.
    return await this.#options.transmit(
      controlFrame('alive', this.id, this.#sent.messages, { receivedMessages, receivedBytes }),
    );
  }

  async #transmitMessage(): Promise<boolean> {
    const frame = this.#queue.shift()!;
    // Counted before it is sent: zeromq.js reads input within `send`, so the acknowledgement may arrive before `send`
    // resolves.
    this.#queuedBytes -= frame.byteLength;
    this.#sent.messages += 1;
    this.#sent.bytes += frame.byteLength;
    const isTaken = await this.#options.transmit(frame);
    if (isTaken) this.#options.counters.sent += 1;
    if (isTaken) this.#options.counters.sentBytes += frame.byteLength;
    else if (!this.#over) {
      this.#queue.unshift(frame);
      this.#queuedBytes += frame.byteLength;
      this.#sent.messages -= 1;
      this.#sent.bytes -= frame.byteLength;
    }
    return isTaken;
  }

  async #transmitBye(bye: { readonly reason: string; sent: boolean }): Promise<boolean> {
    // Set before it is sent, for the same reason as above.
    bye.sent = true;
    const isTaken = await this.#options.transmit(
      controlFrame('bye', this.id, this.#sent.messages, { reason: bye.reason }),
    );
    bye.sent = isTaken;
    return isTaken;
  }

  #reached(): void {
    this.#isUnreachable = false;
    this.#unreachablePings = 0;
  }

  #isWindowOpen(): boolean {
    return (
      this.#sent.messages - this.#acknowledged.messages < this.#limits.windowMessages &&
      this.#sent.bytes - this.#acknowledged.bytes < this.#limits.windowBytes
    );
  }

  #isAcknowledgementDue(): boolean {
    const messages = this.#received.messages - this.#announced.messages;
    const bytes = this.#received.bytes - this.#announced.bytes;
    return (
      messages >= this.#limits.windowMessages * acknowledgedPart ||
      bytes >= this.#limits.windowBytes * acknowledgedPart
    );
  }

  #acceptMessage(frame: Frame): void {
    this.#received.messages += 1;
    this.#received.bytes += headerBytes + frame.payload.byteLength;
    if (this.#isAcknowledgementDue()) {
      this.#aliveDue = true;
      void this.#pump();
    }
    const payload = this.#whole(frame);
    if (payload === null) return;
    const envelope = parseEnvelope(decode(payload));
    this.#options.counters.received += 1;
    this.#options.deliver(envelope);
  }

  /** The message that ends with this frame; null for one that goes on. */
  #whole({ kind, payload }: Frame): Uint8Array | null {
    if (kind === 'message' && this.#parts.length === 0) return payload;
    const bytes = this.#parts.reduce((sum, part) => sum + part.byteLength, payload.byteLength);
    if (bytes > this.#limits.messageBytes) {
      this.#parts.length = 0;
      throw new ProtocolError(`a message of ${bytes} bytes exceeds ${this.#limits.messageBytes} bytes`);
    }
    this.#parts.push(payload);
    return kind === 'part' ? null : Buffer.concat(this.#parts.splice(0));
  }

  #acceptAlive(frame: Frame): void {
    const { receivedMessages, receivedBytes } = parsePayload('alive', frame);
    if (receivedMessages > this.#sent.messages || receivedBytes > this.#sent.bytes) {
      throw new ProtocolError(
        `${this.peer} acknowledges ${receivedMessages} of ${this.#sent.messages} messages`,
      );
    }
    this.#acknowledged = { messages: receivedMessages, bytes: receivedBytes };
    void this.#pump();
  }

  #describeGap(frame: Frame): string {
    return `it has sent ${frame.position} messages but ${this.#received.messages} arrived: a connection broke`;
  }
}
