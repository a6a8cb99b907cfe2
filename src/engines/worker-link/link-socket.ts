import type { Reply } from 'zeromq';
import { describe } from '../../errors.ts';
import type { Clock } from '../../ports.ts';

/**
 * ZeroMQ reports a disconnect on another channel than messages, and may do so before the connection's last message. For
 * this long after a disconnect a reply may still arrive, and a send may still go into the old connection.
 */
const disconnectGraceMilliseconds = 50;

/** Largest message that is accepted from a peer. The manifest of 70,000 tensors has 10 MB. */
export const maxMessageBytes = 256 * 2 ** 20;

/** The ZeroMQ socket of one end. */
export interface LinkEnd extends Pick<Reply, 'events' | 'closed' | 'receive' | 'close'> {
  send(frame: Uint8Array): Promise<void>;
  /** Requests may be sent while answers to earlier ones are due. Default: false. */
  readonly takesSeveral?: boolean;
}

/**
 * One end of a worker link: a ZeroMQ socket with one peer at a time. A wait ends at its deadline, when the peer
 * disconnects, or when {@link end} is called. An exchange has one peer; after {@link completed} that peer may disconnect
 * and the next one connect.
 */
export class LinkSocket {
  readonly #socket: LinkEnd;
  readonly #clock: Clock;
  readonly #lost: () => Error;
  /** Of peers, over all exchanges. One peer at a time, so they alternate. */
  #connects = 0;
  #disconnects = 0;
  /** Exchanges that are complete. */
  #completed = 0;
  /** The exchange for which the connections of earlier peers are known to be closed. */
  #settled = 0;
  /** Why no wait can succeed any more. */
  #ended: Error | null = null;
  #rejectWait: ((error: Error) => void) | null = null;
  readonly #peerChanged = new Notifier();
  #cancelLoss: () => void = () => {};
  #sending: Promise<void> = Promise.resolve();
  #receiving: Promise<Buffer[]> | null = null;

  /** `lost` creates the error of waits that end because the peer disconnected. */
  constructor(socket: LinkEnd, clock: Clock, lost: () => Error) {
    this.#socket = socket;
    this.#clock = clock;
    this.#lost = lost;
    socket.events.on('handshake', () => {
      this.#connects += 1;
      this.#peerChanged.notify();
    });
    socket.events.on('disconnect', () => {
      // A connection that failed before its handshake was not the peer's.
      if (this.#disconnects === this.#connects) return;
      this.#disconnects += 1;
      this.#peerChanged.notify();
      if (this.disconnected)
        this.#cancelLoss = clock.after(disconnectGraceMilliseconds, () => this.end(lost()));
    });
  }

  /** The peer of this exchange has connected; it may have disconnected since. */
  get connected(): boolean {
    return this.#connects > this.#completed;
  }

  get disconnected(): boolean {
    return this.#disconnects > this.#completed;
  }

  /** The exchange succeeded: its peer may disconnect now, and another one connect. */
  completed(): void {
    this.#completed += 1;
    this.#cancelLoss();
  }

  /**
   * Waits for one step of the exchange, at most one at a time. Rejects with `late()` at the deadline. After a deadline, a
   * loss or {@link end}, every later wait rejects with the same error.
   */
  wait<T>(milliseconds: number, late: () => Error, step: () => Promise<T>): Promise<T> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    return new Promise<T>((resolve, reject) => {
      const cancel = this.#clock.after(milliseconds, () => this.end(late()));
      const settled = () => {
        cancel();
        this.#rejectWait = null;
      };
      this.#rejectWait = (error) => {
        settled();
        reject(error);
      };
      step().then(
        (value) => {
          if (this.#ended !== null) return;
          settled();
          resolve(value);
        },
        (error: unknown) => this.end(this.#reasonOf(error)),
      );
    });
  }

  /** Rejects the wait in progress and all later ones. Only the first call counts. */
  end(reason: Error): void {
    if (this.#ended !== null) return;
    this.#ended = reason;
    this.#rejectWait?.(reason);
  }

  get takesSeveral(): boolean {
    return this.#socket.takesSeveral ?? false;
  }

  /** Sends a request once the peer of this exchange is connected. */
  async request(frame: Uint8Array): Promise<void> {
    await this.#peerConnected();
    // A frame that is sent without a peer is queued in the socket, and cannot be taken back.
    if (this.#ended !== null) throw this.#ended;
    await this.send(frame);
  }

  /** ZeroMQ sends large frames without a copy: `frame` must not change afterwards. */
  send(frame: Uint8Array): Promise<void> {
    // A socket allows one send at a time, and an abort may come while another one is pending.
    this.#sending = this.#sending.then(
      () => this.#socket.send(frame),
      () => this.#socket.send(frame),
    );
    return this.#sending;
  }

  /** Messages of this protocol have one frame. A message of several is returned joined, and fails to decode. */
  async receive(): Promise<Uint8Array> {
    // A socket allows one receive at a time, and an abort may come while another one is pending.
    this.#receiving ??= this.#socket.receive().finally(() => {
      this.#receiving = null;
    });
    const frames = await this.#receiving;
    return frames.length === 1 ? frames[0]! : Buffer.concat(frames);
  }

  /**
   * Answers every message of the peer with `frame` until it disconnects or the time is up; waits for a peer that has not
   * connected yet. For an exchange that has failed: call {@link end} before.
   */
  async drainPeer(frame: Uint8Array, milliseconds: number): Promise<void> {
    const repeat = async () => {
      await this.#peerConnected();
      for (;;) {
        await this.send(frame);
        await this.receive();
      }
    };
    repeat().catch(() => {});
    await this.#untilDisconnected(milliseconds);
  }

  /** May be called twice. Frames already sent are still delivered, within the socket's linger. */
  close(): void {
    this.#cancelLoss();
    if (!this.#socket.closed) this.#socket.close();
  }

  #untilDisconnected(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.#clock.after(milliseconds, resolve);
      const check = () => {
        if (!this.disconnected) return void this.#peerChanged.next.then(check);
        cancel();
        resolve();
      };
      check();
    });
  }

  /** Resolves when the peers of earlier exchanges have disconnected and this one's is connected: sends go to it. */
  async #peerConnected(): Promise<void> {
    while (!this.connected || this.#disconnects < this.#completed) await this.#peerChanged.next;
    if (this.#settled === this.#completed) return;
    // Until then a send could still go into the connection of an earlier peer.
    await new Promise<void>((resolve) => this.#clock.after(disconnectGraceMilliseconds, resolve));
    this.#settled = this.#completed;
  }

  /** A failed step ends the exchange: whose turn it is to send is unknown after it. */
  #reasonOf(error: unknown): Error {
    // A receive fails with this when its connection closes, possibly before the disconnect event.
    if (error instanceof Error && 'code' in error && error.code === 'EAGAIN') return this.#lost();
    return error instanceof Error ? error : new Error(describe(error));
  }
}

/** An event that happens repeatedly. */
class Notifier {
  #resolve: () => void = () => {};
  /** Resolves the next time that {@link notify} is called. */
  next = this.#create();

  notify(): void {
    this.#resolve();
    this.next = this.#create();
  }

  #create(): Promise<void> {
    return new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }
}
