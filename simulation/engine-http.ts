import type { CallOptions, Readiness } from '../src/engines/engine-client.ts';
import { AbortedError, DeadlineError, describe, EngineError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';

/** Time that one HTTP request or response takes. */
const httpMilliseconds = 2;
/** Interval of health checks while the engine is down. */
const pollMilliseconds = 200;

/** Polls an engine until it is up or the deadline passes. */
export async function polledReady(
  name: string,
  isUp: () => boolean,
  clock: Clock,
  { timeoutMilliseconds, signal }: CallOptions,
): Promise<Readiness> {
  let wasDown = false;
  const deadline = clock.now() + timeoutMilliseconds;
  for (;;) {
    await sleep(clock, httpMilliseconds, signal);
    if (isUp()) return { wasDown };
    wasDown = true;
    if (clock.now() >= deadline) {
      throw new DeadlineError(`engine ${name} is not ready after ${timeoutMilliseconds} ms`);
    }
    await sleep(clock, pollMilliseconds, signal);
  }
}

/**
 * One request to an engine and its response. Settles within the caller's timeout, by the caller's clock. If the caller gives
 * up, the engine continues what it does, by its own.
 */
export function simulatedCall<T>(
  name: string,
  engineClock: Clock,
  clock: Clock,
  { timeoutMilliseconds, signal }: CallOptions,
  call: () => Promise<T>,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const settle = (end: () => void) => {
      cancel();
      signal.removeEventListener('abort', onAbort);
      end();
    };
    const fail = (error: Error) => settle(() => reject(error));
    const onAbort = () => fail(new AbortedError(`the call to engine ${name} was aborted`));
    const cancel = clock.after(timeoutMilliseconds, () =>
      fail(new DeadlineError(`engine ${name} did not answer within ${timeoutMilliseconds} ms`)),
    );
    if (signal.aborted) return onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    const afterHop = (then: () => void) => engineClock.after(httpMilliseconds, then);
    afterHop(() =>
      call().then(
        (answer) => afterHop(() => settle(() => resolve(answer))),
        (error) => afterHop(() => fail(new EngineError(`engine ${name} answered 500: ${describe(error)}`))),
      ),
    );
  });
}

function sleep(clock: Clock, milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (aborted: boolean) => {
      cancel();
      signal.removeEventListener('abort', onAbort);
      if (aborted) reject(new AbortedError('the call was aborted'));
      else resolve();
    };
    const onAbort = () => settle(true);
    const cancel = clock.after(milliseconds, () => settle(false));
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
}
