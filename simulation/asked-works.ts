import type { SupervisorMessage } from '../src/actors/protocol/supervisor.ts';
import type { Passage } from './network.ts';

type Asked = Extract<SupervisorMessage, { type: 'update' | 'register' }>;

/** The registrations and updates that users have asked for and not been answered. */
export class AskedWorks {
  readonly #running = new Map<string, Asked>();

  /** Takes note of what is sent between users and the supervisor; what is answered with it is returned. */
  sent({ from, to, envelope }: Passage): Asked | null {
    if (envelope.kind === 'ask') {
      const body = envelope.body as Asked;
      if (body.type === 'update' || body.type === 'register')
        this.#running.set(`${from} ${envelope.id}`, body);
      return null;
    }
    if (envelope.kind !== 'reply' && envelope.kind !== 'failure') return null;
    const key = `${to} ${envelope.id}`;
    const asked = this.#running.get(key) ?? null;
    this.#running.delete(key);
    return asked;
  }

  /** Whether one of them may touch the instance. */
  concern(instance: string): boolean {
    return [...this.#running.values()].some((asked) => {
      return asked.type === 'update' && (asked.options.instances?.includes(instance) ?? true);
    });
  }
}
