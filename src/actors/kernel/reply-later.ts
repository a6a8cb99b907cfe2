import { asFailure } from '../../errors.ts';
import type { Reply } from './actor.ts';

/** Replies when the work is done, or has failed: the mailbox does not wait for it. */
export function replyLater<R>(reply: Reply<R>, work: Promise<R>): void {
  work.then(
    (answer) => reply.succeed(answer),
    (error) => reply.fail(asFailure(error)),
  );
}
