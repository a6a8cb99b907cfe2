import type { RankMessage } from '../src/actors/protocol/rank.ts';
import type { Passage } from './network.ts';

/** What ranks have been asked to lend and not to take back, by what arrives at their processes. */
export class LentSegments {
  /** Node, then epoch, to paths. */
  readonly #lent = new Map<string, Map<number, Set<string>>>();

  arrived({ to, envelope }: Passage): void {
    if (envelope.kind !== 'ask' && envelope.kind !== 'tell') return;
    const message = envelope.body as Partial<RankMessage>;
    if (message.type === 'lease') {
      const { epoch, segments } = message as Extract<RankMessage, { type: 'lease' }>;
      const epochs = this.#lent.get(to) ?? new Map<number, Set<string>>();
      this.#lent.set(to, epochs.set(epoch, new Set([...(epochs.get(epoch) ?? []), ...segments])));
    }
    if (message.type === 'return-lease') this.#lent.get(to)?.delete(message.epoch!);
  }

  isLent(node: string, path: string): boolean {
    return [...(this.#lent.get(node)?.values() ?? [])].some((paths) => paths.has(path));
  }
}
