import type { Envelope, PeerEvent, Transport } from '../../src/actors/kernel/index.ts';
import type { HostDocument } from '../../src/checkpoint/host-documents.ts';
import { processorTime } from '../processor-time.ts';

/**
 * What a process sends and receives through its transport, and when, in processor time: of each kind of message the first, and the
 * last to `ranks` ranks. To ask for the time takes as long as to send a message, so that it is asked for these alone.
 */
export class WatchedTransport implements Transport {
  readonly node: string;
  readonly #transport: Transport;
  readonly #ranks: number;
  #counts = new Map<string, number>();
  #first = new Map<string, number>();
  #last = new Map<string, number>();
  readonly #asked = new Map<number, string>();
  #manifest = 0;

  constructor(transport: Transport, ranks: number) {
    this.node = transport.node;
    this.#ranks = ranks;
    this.#transport = transport;
  }

  send(node: string, envelope: Envelope): void {
    if (envelope.kind === 'ask') {
      const { type, document } = envelope.body as { readonly type: string; readonly document?: HostDocument };
      this.#asked.set(envelope.id, type);
      this.#manifest = Math.max(this.#manifest, document?.bytes ?? 0);
      this.#note(type);
    }
    this.#transport.send(node, envelope);
  }

  listen(onEnvelope: (from: string, envelope: Envelope) => void, onPeer: (event: PeerEvent) => void): void {
    this.#transport.listen((from, envelope) => {
      if (envelope.kind === 'reply') this.#note(`${this.#asked.get(envelope.id)} answered`);
      onEnvelope(from, envelope);
    }, onPeer);
  }

  close(deadlineMilliseconds: number): Promise<void> {
    return this.#transport.close(deadlineMilliseconds);
  }

  /** Forgets what was seen so far. */
  begin(): void {
    this.#counts = new Map();
    this.#first = new Map();
    this.#last = new Map();
  }

  /** Milliseconds of processor time from the last message of one kind to the first of another. */
  betweenKinds(before: string, after: string): number {
    return this.#first.get(after)! - this.#last.get(before)!;
  }

  /** The same from the first message of one kind to the first of another. */
  fromFirst(before: string, after: string): number {
    return this.#first.get(after)! - this.#first.get(before)!;
  }

  /** The same from the first message of one kind to the last of another. */
  overKinds(from: string, to: string): number {
    return this.#last.get(to)! - this.#first.get(from)!;
  }

  /** Bytes of the longest document that was sent, packed: a plan is shorter. */
  get manifest(): number {
    return this.#manifest;
  }

  #note(kind: string): void {
    const count = (this.#counts.get(kind) ?? 0) + 1;
    this.#counts.set(kind, count);
    if (count === 1) this.#first.set(kind, processorTime());
    if (count % this.#ranks === 0) this.#last.set(kind, processorTime());
  }
}
