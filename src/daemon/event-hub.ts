/** What happens in a daemon, as its clients see it. `type` and the fields are documented in docs/daemon.md. */
export interface DaemonEvent {
  readonly type: 'progress' | 'update' | 'checkpoint' | 'instance' | 'cluster';
  /** The job that it is about: `progress` and `update`. */
  readonly update?: string;
  readonly [field: string]: unknown;
}

export type Listener = (event: DaemonEvent & { readonly id: number; readonly at: string }) => void;

/** Tells listeners of events, in order. Keeps none of them: who comes later asks for the status first. */
export class EventHub {
  readonly #listeners = new Set<Listener>();
  #last = 0;

  tell(event: DaemonEvent): void {
    this.#last += 1;
    const told = { id: this.#last, at: new Date().toISOString(), ...event };
    for (const listener of this.#listeners) listener(told);
  }

  /** Returns how to end it. */
  listen(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
