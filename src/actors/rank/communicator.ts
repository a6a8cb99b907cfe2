import { isDeepStrictEqual } from 'node:util';
import type { Collective } from '../../native-bridge/collective.ts';
import type { Communicator } from '../protocol/update-values.ts';
import type { RankPorts } from './ports.ts';

/** The communicator that a rank keeps from update to update. */
export class HeldCommunicator {
  readonly #ports: Pick<RankPorts, 'openCollective'>;
  #held: { readonly number: number; readonly ranks: Uint32Array; readonly collective: Collective } | null =
    null;

  constructor(ports: Pick<RankPorts, 'openCollective'>) {
    this.#ports = ports;
  }

  /** Joins it with these ranks, in their order, unless this rank has; leaves the one before. */
  async join({ number, id }: Communicator, ranks: Uint32Array): Promise<Collective> {
    const held = this.#held;
    if (held?.number === number && isDeepStrictEqual(held.ranks, ranks)) return held.collective;
    this.close();
    const collective = await this.#ports.openCollective({ number, id }, [...ranks]);
    this.#held = { number, ranks, collective };
    return collective;
  }

  /** Ends what is under way, for all members. */
  abort(): void {
    this.#held?.collective.abort();
  }

  close(): void {
    this.#held?.collective.close();
    this.#held = null;
  }
}
