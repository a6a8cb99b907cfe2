import { asFailure, type WeightcastError } from '../../errors.ts';
import type { Context, Reply } from '../kernel/index.ts';
import type { SupervisorInbox } from './inbox.ts';
import type { Work, Works } from './jobs.ts';

/** A piece of work that has begun, and what its end means. */
export interface BegunWork<T, R> {
  readonly work: Work;
  readonly run: Promise<T>;
  /** Makes the answer. */
  readonly commit: (value: T) => R;
  readonly rollback: () => void;
}

/**
 * Runs work beside the supervisor's mailbox; its outcome changes state in the mailbox, before the reply is sent. What
 * `begin` throws is the reply too.
 */
export function beginWork<T, R>(
  works: Works,
  reply: Reply<R>,
  context: Context<SupervisorInbox>,
  begin: () => BegunWork<T, R>,
): void {
  let begun: BegunWork<T, R>;
  try {
    begun = begin();
  } catch (thrown) {
    reply.fail(asFailure(thrown));
    return;
  }
  const { work, run, commit, rollback } = begun;
  works.begin(work);
  const { signal } = work.abort;
  const succeed = (value: T) => reply.succeed(commit(value));
  const fail = (error: WeightcastError) => {
    rollback();
    // What went wrong after an abort did so because of it.
    reply.fail(signal.aborted ? asFailure(signal.reason) : error);
  };
  context.pipe(
    run,
    (value) => ({ type: 'work-ended', work, settle: () => succeed(value) }),
    (error) => ({ type: 'work-ended', work, settle: () => fail(error) }),
  );
}
