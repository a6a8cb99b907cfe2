import type { Reply, Request } from 'zeromq';
import { describe } from '../../errors.ts';
import type { Clock } from '../../ports.ts';

/**
 * What the news of a disconnection is ahead of the connection's last effects on the socket: the two come by different
 * ways. A peer that answers and leaves must not count as lost, and nothing may be sent into a connection that is ending.
 */
const trailingMilliseconds = 50;

/** A peer's message has no business being larger: manifests of 70,000 tensors are 10 MB. */
export const maxMessageBytes = 256 * 2 ** 20;

/**
 * One end of a worker link: a ZeroMQ socket with one peer at a time, whose waits end at a deadline, when the peer
 * vanishes, or when {@link end} is called. An exchange has one peer; after {@link completed} that one may leave and
 * the next may come.
 */
export class LinkSocket {
  readonly #socket: Request | Reply;
  readonly #clock: Clock;
  readonly #lost: () => Error;
  /** Peers that came and peers that left, in all exchanges; in order, for there is one at a time. */
  #arrivals = 0;
  #departures = 0;
  /** Exchanges before this one. */
  #completed = 0;
  /** The exchange whose peer is known to be the only one. */
  #met = 0;
  /** Why no wait can succeed any more. */
  #ended: Error | null = null;
  #rejectWait: ((error: Error) => void) | null = null;
  #comesOrGoes = new Signal();
  #cancelLoss: () => void = () => {};
  #sending: Promise<void> = Promise.resolve();
  #receiving: Promise<Buffer[]> | null = null;

  /** `lost` makes the error that waits end with when the peer's connection is gone. */
  constructor(socket: Request | Reply, clock: Clock, lost: () => Error) {
    this.#socket = socket;
    this.#clock = clock;
    this.#lost = lost;
    socket.events.on('handshake', () => {
      this.#arrivals += 1;
      this.#comesOrGoes.give();
    });
    socket.events.on('disconnect', () => {
      // A connection that never got through its handshake was not the peer's.
      if (this.#departures === this.#arrivals) return;
      this.#departures += 1;
      this.#comesOrGoes.give();
      if (this.disconnected) this.#cancelLoss = clock.after(trailingMilliseconds, () => this.end(lost()));
    });
  }

  /** The peer of this exchange has connected, if only once. */
  get connected(): boolean {
    return this.#arrivals > this.#completed;
  }

  get disconnected(): boolean {
    return this.#departures > this.#completed;
  }

  /** The exchange is over and went well: from here its peer may leave, and another take its place. */
  completed(): void {
    this.#completed += 1;
    this.#cancelLoss();
  }

  /**
   * Waits for one step of the exchange, at most one at a time. Rejects with `late()` at the deadline; after that, as
   * after a loss or {@link end}, every later wait rejects with the same error.
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

  /** Ends the wait in progress and all later ones. The first reason stays. */
  end(reason: Error): void {
    if (this.#ended !== null) return;
    this.#ended = reason;
    this.#rejectWait?.(reason);
  }

  /** Sends a request once the peer of this exchange is there, and resolves with its reply. A step of a {@link wait}. */
  async request(frame: Uint8Array): Promise<Uint8Array> {
    await this.#peer();
    // What is given to a socket without a peer waits in it, and cannot be taken back from there.
    if (this.#ended !== null) throw this.#ended;
    await this.send(frame);
    return await this.receive();
  }

  /** ZeroMQ sends large frames without a copy: `frame` must not change afterwards. */
  send(frame: Uint8Array): Promise<void> {
    // A socket takes one send at a time, and an abort may come while one is still on its way.
    this.#sending = this.#sending.then(
      () => this.#socket.send(frame),
      () => this.#socket.send(frame),
    );
    return this.#sending;
  }

  /** A message of this protocol is one frame; what comes in several is handed on joined, and fails to decode. */
  async receive(): Promise<Uint8Array> {
    // A socket takes one receive at a time, and an abort may come while one is still waiting.
    this.#receiving ??= this.#socket.receive().finally(() => {
      this.#receiving = null;
    });
    const frames = await this.#receiving;
    return frames.length === 1 ? frames[0]! : Buffer.concat(frames);
  }

  /**
   * Sends the peer, if it comes, `frame` as often as it answers, until it leaves or the time is over. For the end of
   * an exchange that has failed: {@link end} comes before.
   */
  async dismiss(frame: Uint8Array, milliseconds: number): Promise<void> {
    const repeat = async () => {
      await this.#peer();
      for (;;) {
        await this.send(frame);
        await this.receive();
      }
    };
    repeat().catch(() => {});
    await this.#untilDisconnected(milliseconds);
  }

  /** May be called twice. A frame that was sent just before still leaves, within the socket's linger. */
  close(): void {
    this.#cancelLoss();
    if (!this.#socket.closed) this.#socket.close();
  }

  #untilDisconnected(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.#clock.after(milliseconds, resolve);
      const look = () => {
        if (!this.disconnected) return void this.#comesOrGoes.given.then(look);
        cancel();
        resolve();
      };
      look();
    });
  }

  /** Resolves when the peers of earlier exchanges have left and this one's has come: what is sent now goes to it. */
  async #peer(): Promise<void> {
    while (!this.connected || this.#departures < this.#completed) await this.#comesOrGoes.given;
    if (this.#met === this.#completed) return;
    // The connections of those that left take no more messages only now.
    await new Promise<void>((resolve) => this.#clock.after(trailingMilliseconds, resolve));
    this.#met = this.#completed;
  }

  /** A step that fails ends the exchange: the turn that the two sockets are at is not known any more. */
  #reasonOf(error: unknown): Error {
    // What a receive says when the connection it waits on goes away, before any event tells of it.
    if (error instanceof Error && 'code' in error && error.code === 'EAGAIN') return this.#lost();
    return error instanceof Error ? error : new Error(describe(error));
  }
}

/** Something that happens again and again. */
class Signal {
  #give: () => void = () => {};
  /** Resolves the next time. */
  given = this.#next();

  give(): void {
    this.#give();
    this.given = this.#next();
  }

  #next(): Promise<void> {
    return new Promise((resolve) => {
      this.#give = resolve;
    });
  }
}
