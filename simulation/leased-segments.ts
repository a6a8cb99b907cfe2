import type { RankMessage } from '../src/actors/protocol/rank.ts';
import type { InFlight } from './network.ts';

/** The segments that ranks lend out, according to the messages that arrived at their processes. */
export class LeasedSegments {
  /** By node, then by epoch: paths. */
  readonly #leases = new Map<string, Map<number, Set<string>>>();

  arrived({ to, envelope }: InFlight): void {
    if (envelope.kind !== 'ask' && envelope.kind !== 'tell') return;
    const message = envelope.body as Partial<RankMessage>;
    if (message.type === 'lease') {
      const { epoch, segments } = message as Extract<RankMessage, { type: 'lease' }>;
      const epochs = this.#leases.get(to) ?? new Map<number, Set<string>>();
      this.#leases.set(to, epochs.set(epoch, new Set([...(epochs.get(epoch) ?? []), ...segments])));
    }
    if (message.type === 'return-lease') this.#leases.get(to)?.delete(message.epoch!);
  }

  isLeased(node: string, path: string): boolean {
    return [...(this.#leases.get(node)?.values() ?? [])].some((paths) => paths.has(path));
  }
}
