import type { Instance, Worker } from '../protocol/instance.ts';
import type { Remembered } from '../protocol/remembered-values.ts';

/** Where a rank stands among those of its host. */
export interface HostPosition {
  /** From 0; stays the rank's as long as it is in the cluster. The index of its GPU, unless another rank was there first. */
  readonly position: number;
  /** Its place among the host's ranks in that order, and their number: ranks share the host's NICs by these. */
  readonly localRank: number;
  readonly localRanks: number;
}

/** Numbers the ranks of each host, whatever instances they belong to. */
export class HostPositions {
  readonly #taken = new Map<number, { readonly host: string; readonly position: number }>();

  /** Takes over what these ranks had under an earlier supervisor. */
  recall(ranks: readonly number[], all: Remembered['positions']): void {
    for (const { rank, host, position } of all)
      if (ranks.includes(rank)) this.#taken.set(rank, { host, position });
  }

  get all(): Remembered['positions'] {
    return [...this.#taken].map(([rank, { host, position }]) => ({ rank, host, position }));
  }

  /**
   * Gives ranks without a position that of their device, if it is free, and others, in the order of their numbers, the lowest
   * that are free on their hosts.
   */
  assign(instances: readonly Instance[]): void {
    const workers = instances.flatMap((instance) => instance.workers);
    const isNew = ({ rank }: Worker) => !this.#taken.has(rank);
    for (const { rank, host = '', device } of workers.filter(isNew))
      if (typeof device === 'number' && !this.#positionsOn(host).includes(device))
        this.#taken.set(rank, { host, position: device });
    const others = workers.filter(isNew).sort((one, other) => one.rank - other.rank);
    for (const { rank, host = '' } of others) {
      const positions = this.#positionsOn(host);
      let position = 0;
      while (positions.includes(position)) position += 1;
      this.#taken.set(rank, { host, position });
    }
  }

  release(rank: number): void {
    this.#taken.delete(rank);
  }

  /** Of a rank that has one. */
  of(rank: number): HostPosition {
    const { host, position } = this.#taken.get(rank)!;
    const positions = this.#positionsOn(host).sort((one, other) => one - other);
    return { position, localRank: positions.indexOf(position), localRanks: positions.length };
  }

  #positionsOn(host: string): number[] {
    return [...this.#taken.values()].filter((one) => one.host === host).map(({ position }) => position);
  }
}
