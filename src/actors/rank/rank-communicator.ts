import { isDeepStrictEqual } from 'node:util';
import type { Collective } from '../../native-bridge/collective.ts';
import type { Communicator } from '../protocol/update-values.ts';
import type { RankPorts } from './ports.ts';

/** The communicator of a rank, kept from update to update. */
export class RankCommunicator {
  readonly #ports: Pick<RankPorts, 'openCollective'>;
  #open: { readonly number: number; readonly ranks: Uint32Array; readonly collective: Collective } | null =
    null;

  constructor(ports: Pick<RankPorts, 'openCollective'>) {
    this.#ports = ports;
  }

  /** Joins this communicator with `ranks` in their order, unless it is the open one; closes the one before. */
  async join({ number, id }: Communicator, ranks: Uint32Array): Promise<Collective> {
    const open = this.#open;
    if (open?.number === number && isDeepStrictEqual(open.ranks, ranks)) return open.collective;
    this.close();
    const collective = await this.#ports.openCollective({ number, id }, [...ranks]);
    this.#open = { number, ranks, collective };
    return collective;
  }

  /** Ends the broadcasts in flight, for all members. */
  abort(): void {
    this.#open?.collective.abort();
  }

  /** May be called twice. */
  close(): void {
    this.#open?.collective.close();
    this.#open = null;
  }
}
