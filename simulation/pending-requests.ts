import type { SupervisorMessage } from '../src/actors/protocol/supervisor.ts';
import type { InFlight } from './network.ts';

/** A registration or an update. */
type JobRequest = Extract<SupervisorMessage, { type: 'update' | 'register' }>;

export interface PendingRequest {
  readonly body: JobRequest;
  readonly sentAt: number;
}

/** The registrations and updates that users have requested and that were not answered yet. */
export class PendingRequests {
  readonly #pending = new Map<string, PendingRequest>();

  /** Records a message between a user and the supervisor. Returns the request that it answers, if it answers one. */
  observe({ from, to, envelope }: InFlight, now: number): PendingRequest | null {
    if (envelope.kind === 'ask') {
      const body = envelope.body as JobRequest;
      if (body.type === 'update' || body.type === 'register')
        this.#pending.set(`${from} ${envelope.id}`, { body, sentAt: now });
      return null;
    }
    if (envelope.kind !== 'reply' && envelope.kind !== 'failure') return null;
    const key = `${to} ${envelope.id}`;
    const request = this.#pending.get(key) ?? null;
    this.#pending.delete(key);
    return request;
  }

  /** The supervisor has died: nobody answers them. */
  clear(): void {
    this.#pending.clear();
  }

  /** Whether a pending update includes the instance. */
  includeInstance(instance: string): boolean {
    return [...this.#pending.values()].some(({ body }) => {
      return body.type === 'update' && (body.options.instances?.includes(instance) ?? true);
    });
  }
}
