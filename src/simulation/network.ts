import type { Envelope, PeerEvent, Transport } from '../actors/kernel/index.ts';
import { OverloadedError, PeerLostError } from '../errors.ts';

type Listener = {
  onEnvelope: (from: string, envelope: Envelope) => void;
  onPeer: (event: PeerEvent) => void;
};

/**
 * The transports of several nodes in one process. Envelopes are copied as a real wire would, arrive in order and,
 * while both nodes live, exactly once.
 */
export class SimulatedNetwork {
  readonly #nodes = new Map<string, SimulatedTransport>();

  join(node: string): SimulatedTransport {
    const transport = new SimulatedTransport(node, this);
    for (const other of this.#nodes.values()) {
      other.peer({ node, state: 'up', reason: 'joined' });
      transport.peer({ node: other.node, state: 'up', reason: 'was there' });
    }
    this.#nodes.set(node, transport);
    return transport;
  }

  /** A node vanishes without a word, as a killed process does. */
  kill(node: string): void {
    this.#leave(node, 'killed');
  }

  leave(node: string): void {
    this.#leave(node, 'left');
  }

  find(node: string): SimulatedTransport | undefined {
    return this.#nodes.get(node);
  }

  #leave(node: string, reason: string): void {
    if (!this.#nodes.delete(node)) return;
    for (const other of this.#nodes.values()) other.peer({ node, state: 'down', reason });
  }
}

export class SimulatedTransport implements Transport {
  readonly node: string;
  /** Envelopes that `send` takes before it refuses: a peer whose queue is full. */
  queueLimit = Number.POSITIVE_INFINITY;
  readonly #network: SimulatedNetwork;
  #listener: Listener | null = null;
  #underWay = 0;

  constructor(node: string, network: SimulatedNetwork) {
    this.node = node;
    this.#network = network;
  }

  send(node: string, envelope: Envelope): void {
    if (this.#network.find(node) === undefined) throw new PeerLostError(`${node} is not within reach`);
    if (this.#underWay >= this.queueLimit) throw new OverloadedError(`the queue to ${node} is full`);
    const copy = structuredClone(envelope);
    this.#underWay += 1;
    setImmediate(() => {
      this.#underWay -= 1;
      this.#network.find(node)?.arrive(this.node, copy);
    });
  }

  listen(onEnvelope: Listener['onEnvelope'], onPeer: Listener['onPeer']): void {
    this.#listener = { onEnvelope, onPeer };
  }

  async close(): Promise<void> {
    this.#network.leave(this.node);
  }

  /** Delivers, as the network does; a test may use it to forge a message. */
  arrive(from: string, envelope: Envelope): void {
    if (this.#network.find(this.node) === this) this.#listener?.onEnvelope(from, envelope);
  }

  peer(event: PeerEvent): void {
    this.#listener?.onPeer(event);
  }
}
