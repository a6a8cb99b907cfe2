import { dispatch, type Ref, spawn, start, stop } from 'nact';

/** Turns that actors requested and have not begun. A simulation lets time pass only when there are none. */
export interface TurnCount {
  due: number;
}

/** The turns of one actor: at most one is due or running at a time. */
export interface ActorTurns {
  /** Asks for a turn; nothing changes while one is due or running. */
  request(): void;
  /** Cancels the turn that is due; there will be no others. */
  remove(): void;
}

/**
 * Gives the actors of one system their turns, in the order of their requests and each in an iteration of the event
 * loop of its own.
 *
 * This is all that is used of nact. Every actor is a child of nact's root, because on each message nact copies the
 * list of an actor's children; and its name is a number, because nact accepts only characters that URLs allow.
 */
export class Turns {
  readonly #root = start() as Ref<never>;
  readonly #count: TurnCount;
  #actors = 0;
  #due = 0;
  #halted = false;

  constructor(count: TurnCount) {
    this.#count = count;
  }

  /** `run` takes one turn and must not reject; after it `hasWork` says whether the actor needs another one. */
  add(run: () => Promise<void>, hasWork: () => boolean): ActorTurns {
    let state: 'idle' | 'due' | 'running' | 'removed' = 'idle';
    const takeTurn = async (): Promise<null> => {
      if (state !== 'due' || this.#halted) return null;
      state = 'running';
      this.#changeDue(-1);
      await run();
      if (state !== 'running') return null;
      state = 'idle';
      // Asked here and not within `run`: what arrives in between has requested no turn.
      if (hasWork()) request();
      return null;
    };
    this.#actors += 1;
    const actor = spawn(this.#root, takeTurn, `${this.#actors}`, {
      initialState: null,
      // Turns never throw; if one did, the actor would stop.
      onCrash: (_message, _error, context) => context.stop,
    });
    const request = () => {
      if (state !== 'idle') return;
      state = 'due';
      this.#changeDue(1);
      dispatch(actor as never, null as never);
    };
    const remove = () => {
      if (state === 'due') this.#changeDue(-1);
      state = 'removed';
      stop(actor as never);
    };
    return { request, remove };
  }

  /** No turn begins from now on. */
  halt(): void {
    if (this.#halted) return;
    this.#changeDue(-this.#due);
    this.#halted = true;
    stop(this.#root as never);
  }

  #changeDue(change: number): void {
    if (this.#halted) return;
    this.#due += change;
    this.#count.due += change;
  }
}
