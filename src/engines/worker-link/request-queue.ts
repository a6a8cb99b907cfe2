import { randomInt } from 'node:crypto';
import { Dealer } from 'zeromq';
import { type LinkEnd, maxMessageBytes } from './link-socket.ts';
import { acceptWorkersOnly } from './worker-users.ts';

/** Where a REP socket ends what it sends back before its own answer. */
const delimiter = Buffer.alloc(0);

/**
 * Requests to a REP socket of which several may be in flight: it takes them one by one out of its own queue and answers
 * in order, so that workers need not know of it. As a REQ socket with ZMQ_REQ_CORRELATE, it gives each request a number,
 * which comes back with the answer; whatever has another number than the oldest request in flight is dropped.
 */
export class RequestQueue implements LinkEnd {
  readonly takesSeveral = true;
  readonly #socket = new Dealer({ linger: 0, maxMessageSize: maxMessageBytes });
  /** Of the next request, and of the next answer. */
  #asked = randomInt(2 ** 32);
  #answered = this.#asked;

  constructor() {
    acceptWorkersOnly(this.#socket);
  }

  get events() {
    return this.#socket.events;
  }

  get closed(): boolean {
    return this.#socket.closed;
  }

  bind(address: string): Promise<void> {
    return this.#socket.bind(address);
  }

  send(frame: Uint8Array): Promise<void> {
    const number = numberFrame(this.#asked);
    this.#asked = (this.#asked + 1) % 2 ** 32;
    return this.#socket.send([number, delimiter, frame]);
  }

  async receive(): Promise<Buffer[]> {
    for (;;) {
      const [number, end, ...frames] = await this.#socket.receive();
      if (end?.byteLength !== 0 || !numberFrame(this.#answered).equals(number!)) continue;
      this.#answered = (this.#answered + 1) % 2 ** 32;
      return frames;
    }
  }

  close(): void {
    this.#socket.close();
  }
}

function numberFrame(number: number): Buffer {
  const frame = Buffer.allocUnsafe(4);
  frame.writeUInt32LE(number);
  return frame;
}
