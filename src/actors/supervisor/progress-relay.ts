import { ActorStoppedError, PeerLostError } from '../../errors.ts';
import type { ActorRef, Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { type ObserverMessage, toObserver } from '../protocol/observer.ts';
import type { Progress } from '../protocol/status-values.ts';

type Asker = Pick<Context<never>, 'ask'>;

interface Observer {
  /** By rank, the last that is not sent yet. */
  readonly waiting: Map<number, Progress>;
  isBusy: boolean;
}

const observerLimit = 16;
/** An observer's process may be stopped in a debugger; one that is gone is known at once. */
const patienceMilliseconds = 3_600_000;

/**
 * Passes the progress of ranks on to observers, one message at a time to each: of an observer that is busy only the latest
 * of each rank waits, so that news nobody reads never fills the queue in which answers wait.
 */
export class ProgressRelay {
  readonly #observers = new Map<ActorRef<ObserverMessage>, Observer>();

  add(ref: ActorRef<ObserverMessage>): void {
    if (this.#observers.size < observerLimit) this.#observers.set(ref, { waiting: new Map(), isBusy: false });
  }

  relay(progress: Progress, asker: Asker): void {
    for (const [ref, observer] of this.#observers) {
      observer.waiting.set(progress.rank, progress);
      if (!observer.isBusy) void this.#send(ref, observer, asker);
    }
  }

  async #send(ref: ActorRef<ObserverMessage>, observer: Observer, asker: Asker): Promise<void> {
    observer.isBusy = true;
    try {
      for (const [rank, progress] of observer.waiting) {
        observer.waiting.delete(rank);
        await ask(
          asker,
          ref,
          toObserver.progress,
          { progress },
          { deadlineMilliseconds: patienceMilliseconds },
        );
      }
    } catch (error) {
      if (error instanceof PeerLostError || error instanceof ActorStoppedError) this.#observers.delete(ref);
    } finally {
      observer.isBusy = false;
    }
  }
}
