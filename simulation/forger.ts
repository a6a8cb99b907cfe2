import type { Envelope } from '../src/actors/kernel/index.ts';
import type { SimulatedCluster } from './cluster.ts';
import type { SimulatedTransport } from './network.ts';
import type { SeededRandom } from './random.ts';

const node = 'forger~1';

/**
 * Sends ranks messages of past epochs, as a delayed supervisor might. Ranks must refuse each of them. The forger has its
 * own node, so that its traffic does not delay other messages.
 */
export class Forger {
  readonly #cluster: SimulatedCluster;
  readonly #transport: SimulatedTransport;
  /** By node, the newest epoch that it was asked to prepare. */
  readonly #epochOf = new Map<string, number>();
  #asked = 0;
  #answered = 0;

  constructor(cluster: SimulatedCluster) {
    this.#cluster = cluster;
    const { network, trace } = cluster.world;
    cluster.world.onArrived.push(({ to, envelope }) => this.#noteEpoch(to, envelope));
    this.#transport = network.join(node, []);
    this.#transport.listen(
      (from, envelope) => {
        this.#answered += 1;
        if (envelope.kind !== 'failure')
          trace.violated(`${from} accepted a message of a past epoch: ${JSON.stringify(envelope)}`);
      },
      () => {},
    );
  }

  /** How many messages were answered with a refusal. */
  get refused(): number {
    return this.#answered;
  }

  #noteEpoch(to: string, envelope: Envelope): void {
    const { type, epoch } = (envelope.kind === 'ask' ? envelope.body : {}) as {
      type?: string;
      epoch?: number;
    };
    if (type !== 'prepare' || epoch === undefined) return;
    this.#epochOf.set(to, Math.max(epoch, this.#epochOf.get(to) ?? 0));
  }

  forge(random: SeededRandom): void {
    const { ranks, world } = this.#cluster;
    for (const { process } of ranks.values()) {
      const newest = process === null ? undefined : this.#epochOf.get(process.node);
      if (newest === undefined || newest < 2) continue;
      const epoch = random.whole(1, newest - 1);
      world.network.connect(node, process!.node);
      for (const type of ['prepare', 'open', 'stream', 'connected', 'abort'])
        this.#transport.send(process!.node, this.#message(process!.node, type, epoch));
    }
  }

  #message(to: string, type: string, epoch: number): Envelope {
    this.#asked += 1;
    const body = {
      type,
      epoch,
      reason: 'forged',
      version: 'forged@0',
      worker: {
        report: true,
        liveLayouts: [],
        acceptUnproven: false,
        silenceSeconds: 1,
        protocol: 2,
        parts: 'no',
      },
      createCommunicator: null,
      communicator: null,
      planDigest: '',
      layout: '',
      plan: null,
      manifest: null,
      segments: new Uint8Array(),
      expected: '',
      sparing: null,
      reception: null,
      exchanges: 1,
      stepTimeoutMilliseconds: 1,
      reserveBytes: 0,
      timeline: false,
    };
    return { kind: 'ask', to: { node: to, name: 'rank', generation: 0 }, from: null, id: this.#asked, body };
  }
}
