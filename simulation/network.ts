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

/** An envelope on its way from one node to another. */
export interface InFlight {
  readonly from: string;
  readonly to: string;
  readonly envelope: Envelope;
  readonly bytes: number;
}

export interface NetworkOptions {
  readonly clock: Clock;
  /** Milliseconds that an envelope takes. Envelopes from one node to another never overtake each other. */
  readonly delay: (message: InFlight) => number;
  readonly onSent?: (message: InFlight) => void;
  readonly onArrived?: (message: InFlight) => void;
}

/**
 * The transports of several nodes in one process. Envelopes pass through the real codec and its limits. They arrive in
 * order and, while the session between two nodes lasts, exactly once. Without options they arrive without delay.
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

  /** Adds a node with sessions to `peers`, by default to all nodes. */
  join(node: string, peers: readonly string[] = this.nodes): SimulatedTransport {
    const transport = new SimulatedTransport(node, this);
    this.#nodes.set(node, transport);
    for (const peer of peers) this.connect(node, peer);
    return transport;
  }

  /** Opens a session between two nodes if both exist and have none. */
  connect(node: string, peer: string): void {
    const [one, other] = [this.#nodes.get(node), this.#nodes.get(peer)];
    if (one === undefined || other === undefined || one.isOpen(peer)) return;
    one.open(peer);
    other.open(node);
  }

  /** Removes a node without notice, as when its process is killed. Its peers notice when their sessions end. */
  vanish(node: string): void {
    this.#nodes.delete(node);
  }

  /** Removes a node, and notifies its peers at once. */
  kill(node: string): void {
    this.#leave(node, 'killed');
  }

  leave(node: string): void {
    this.#leave(node, 'left');
  }

  /** Ends a session at one end only; the other end keeps it open until it is ended there too. */
  endSession(node: string, peer: string, reason: string): void {
    this.#nodes.get(node)?.end(peer, reason);
  }

  /** Whether the session is open at both ends. */
  isSession(one: string, other: string): boolean {
    return this.find(one)?.isOpen(other) === true && this.find(other)?.isOpen(one) === true;
  }

  find(node: string): SimulatedTransport | undefined {
    return this.#nodes.get(node);
  }

  carry(from: SimulatedTransport, to: string, envelope: Envelope, lane: Lane): void {
    const encoded = encode(envelope);
    const bytes = encoded.byteLength;
    if (bytes > from.messageLimit)
      throw new ProtocolError(`a message of ${bytes} bytes to ${to} exceeds ${from.messageLimit}`);
    if (lane.messages >= from.queueLimit || lane.bytes >= defaultLimits.queueBytes)
      throw new OverloadedError(`the queue to ${to} is full: ${lane.messages} messages, ${lane.bytes} bytes`);
    lane.messages += 1;
    lane.bytes += bytes;
    const message = { from: from.node, to, envelope, bytes };
    this.#options?.onSent?.(message);
    this.#deliverLater(message, lane, () => {
      lane.messages -= 1;
      lane.bytes -= bytes;
      const receiver = this.#nodes.get(to);
      if (receiver?.isOpen(from.node) !== true) return;
      this.#options?.onArrived?.(message);
      receiver.arrive(from.node, parseEnvelope(decode(encoded)));
    });
  }

  #deliverLater(message: InFlight, lane: Lane, arrive: () => void): void {
    if (this.#options === null) {
      turns.due += 1;
      setImmediate(() => {
        turns.due -= 1;
        arrive();
      });
      return;
    }
    const { clock, delay } = this.#options;
    lane.lastAt = Math.max(lane.lastAt, clock.now() + delay(message));
    clock.after(lane.lastAt - clock.now(), arrive);
  }

  #leave(node: string, reason: string): void {
    if (!this.#nodes.delete(node)) return;
    for (const other of this.#nodes.values()) other.end(node, reason);
  }
}

/** What is in flight from one node to another. */
interface Lane {
  messages: number;
  bytes: number;
  /** When the last message arrives. */
  lastAt: number;
}

export class SimulatedTransport implements Transport {
  readonly node: string;
  /** Bytes of one message. */
  messageLimit = defaultLimits.messageBytes;
  /** How many envelopes to one node may be in flight before `send` rejects more, as with a full queue. */
  queueLimit = defaultLimits.queueMessages + defaultLimits.windowMessages;
  readonly #network: SimulatedNetwork;
  /** By peer, for each session that is open at this end. */
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
    for (const node of this.#lanes.keys()) onPeer({ node, state: 'up', reason: 'already connected' });
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

  /** Delivers a message, as the network does; tests use it to forge one. */
  arrive(from: string, envelope: Envelope): void {
    this.#listener?.onEnvelope(from, envelope);
  }
}
