import type { Envelope, PeerEvent, Transport } from '../src/actors/kernel/index.ts';
import { OverloadedError, PeerLostError, ProtocolError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';
import { decode, encode } from '../src/transport/codec.ts';
import { parseEnvelope } from '../src/transport/envelope-schema.ts';
import { defaultLimits } from '../src/transport/limits.ts';
import { turns } from './turns.ts';

type Listener = {
  onEnvelope: (from: string, envelope: Envelope) => void;
  onPeer: (event: PeerEvent) => void;
};

/** An envelope on its way. */
export interface Passage {
  readonly from: string;
  readonly to: string;
  readonly envelope: Envelope;
  readonly bytes: number;
}

export interface NetworkOptions {
  readonly clock: Clock;
  /** Milliseconds that an envelope takes; those of one sender to one receiver never overtake each other. */
  readonly delay: (passage: Passage) => number;
  readonly onSent?: (passage: Passage) => void;
  readonly onArrived?: (passage: Passage) => void;
}

/**
 * The transports of several nodes in one process. Envelopes go through the real codec and its limits, arrive in order
 * and, while the session between two nodes lasts, exactly once. Without options they arrive in no time.
 */
export class SimulatedNetwork {
  readonly #options: NetworkOptions | null;
  readonly #nodes = new Map<string, SimulatedTransport>();

  constructor(options: NetworkOptions | null = null) {
    this.#options = options;
  }

  get nodes(): string[] {
    return [...this.#nodes.keys()];
  }

  /** A new node, in session with the nodes named, or with all that are there. */
  join(node: string, peers: readonly string[] = this.nodes): SimulatedTransport {
    const transport = new SimulatedTransport(node, this);
    this.#nodes.set(node, transport);
    for (const peer of peers) this.connect(node, peer);
    return transport;
  }

  /** Opens a session between two nodes, if both are there and have none. */
  connect(node: string, peer: string): void {
    const [one, other] = [this.#nodes.get(node), this.#nodes.get(peer)];
    if (one === undefined || other === undefined || one.isOpen(peer)) return;
    one.open(peer);
    other.open(node);
  }

  /** A node vanishes without a word, as a killed process does. Its peers learn of it when their sessions end. */
  vanish(node: string): void {
    this.#nodes.delete(node);
  }

  /** A node vanishes, and its peers know at once. */
  kill(node: string): void {
    this.#leave(node, 'killed');
  }

  leave(node: string): void {
    this.#leave(node, 'left');
  }

  /** Ends the session at one of its ends; the other end believes in it until it is ended there too. */
  endSession(node: string, peer: string, reason: string): void {
    this.#nodes.get(node)?.end(peer, reason);
  }

  /** Whether both ends believe in their session. */
  isSession(one: string, other: string): boolean {
    return this.find(one)?.isOpen(other) === true && this.find(other)?.isOpen(one) === true;
  }

  find(node: string): SimulatedTransport | undefined {
    return this.#nodes.get(node);
  }

  carry(from: SimulatedTransport, to: string, envelope: Envelope, lane: Lane): void {
    const encoded = encode(envelope);
    const bytes = encoded.byteLength;
    if (bytes > defaultLimits.messageBytes)
      throw new ProtocolError(`a message of ${bytes} bytes to ${to} exceeds ${defaultLimits.messageBytes}`);
    if (lane.messages >= from.queueLimit || lane.bytes + bytes > defaultLimits.queueBytes)
      throw new OverloadedError(`the queue to ${to} is full: ${lane.messages} messages, ${lane.bytes} bytes`);
    lane.messages += 1;
    lane.bytes += bytes;
    const passage = { from: from.node, to, envelope, bytes };
    this.#options?.onSent?.(passage);
    this.#later(passage, lane, () => {
      lane.messages -= 1;
      lane.bytes -= bytes;
      const receiver = this.#nodes.get(to);
      if (receiver?.isOpen(from.node) !== true) return;
      this.#options?.onArrived?.(passage);
      receiver.arrive(from.node, parseEnvelope(decode(encoded)));
    });
  }

  #later(passage: Passage, lane: Lane, arrive: () => void): void {
    if (this.#options === null) {
      turns.due += 1;
      setImmediate(() => {
        turns.due -= 1;
        arrive();
      });
      return;
    }
    const { clock, delay } = this.#options;
    lane.lastAt = Math.max(lane.lastAt, clock.now() + delay(passage));
    clock.after(lane.lastAt - clock.now(), arrive);
  }

  #leave(node: string, reason: string): void {
    if (!this.#nodes.delete(node)) return;
    for (const other of this.#nodes.values()) other.end(node, reason);
  }
}

/** What is under way from one node to another. */
interface Lane {
  messages: number;
  bytes: number;
  /** When the last one arrives. */
  lastAt: number;
}

export class SimulatedTransport implements Transport {
  readonly node: string;
  /** Envelopes to one node that `send` takes before it refuses: a peer whose queue is full. */
  queueLimit = defaultLimits.queueMessages + defaultLimits.windowMessages;
  readonly #network: SimulatedNetwork;
  /** By peer: one for each session of which this end is open. */
  readonly #lanes = new Map<string, Lane>();
  #listener: Listener | null = null;

  constructor(node: string, network: SimulatedNetwork) {
    this.node = node;
    this.#network = network;
  }

  send(node: string, envelope: Envelope): void {
    const lane = this.#lanes.get(node);
    if (lane === undefined) throw new PeerLostError(`${node} is not within reach of ${this.node}`);
    this.#network.carry(this, node, envelope, lane);
  }

  listen(onEnvelope: Listener['onEnvelope'], onPeer: Listener['onPeer']): void {
    this.#listener = { onEnvelope, onPeer };
    for (const node of this.#lanes.keys()) onPeer({ node, state: 'up', reason: 'was there' });
  }

  async close(): Promise<void> {
    this.#network.leave(this.node);
  }

  open(node: string): void {
    this.#lanes.set(node, { messages: 0, bytes: 0, lastAt: 0 });
    this.#listener?.onPeer({ node, state: 'up', reason: 'joined' });
  }

  isOpen(node: string): boolean {
    return this.#lanes.has(node);
  }

  end(node: string, reason: string): void {
    if (this.#lanes.delete(node)) this.#listener?.onPeer({ node, state: 'down', reason });
  }

  /** Delivers, as the network does; a test may use it to forge a message. */
  arrive(from: string, envelope: Envelope): void {
    this.#listener?.onEnvelope(from, envelope);
  }
}
