import { randomUUID } from 'node:crypto';
import { deadlines } from '../actors/protocol/deadlines.ts';
import { toSupervisor } from '../actors/protocol/supervisor.ts';
import type { UpdateReport, UpdateRequest } from '../actors/protocol/update-values.ts';
import { AbortedError, describe } from '../errors.ts';
import type { ClusterConnection } from './connection.ts';

/** Asks for an update, which `signal` cancels; then it rejects with `AbortedError` once it has cleaned up. */
export async function askUpdate(
  connection: ClusterConnection,
  question: { readonly checkpoint: string; readonly options: UpdateRequest },
  deadlineMilliseconds: number,
  signal: AbortSignal | undefined,
): Promise<UpdateReport> {
  if (signal === undefined) return connection.ask(toSupervisor.update, question, deadlineMilliseconds);
  const reason = () => describe(signal.reason);
  if (signal.aborted) throw new AbortedError(reason());
  const ticket = randomUUID();
  const cancel = () => {
    // Whether it came in time, the update's own answer says.
    connection
      .ask(toSupervisor.cancelUpdate, { ticket, reason: reason() }, deadlines.control)
      .catch(() => {});
  };
  signal.addEventListener('abort', cancel, { once: true });
  try {
    return await connection.ask(toSupervisor.update, { ...question, ticket }, deadlineMilliseconds);
  } finally {
    signal.removeEventListener('abort', cancel);
  }
}
