import type { Socket } from 'zeromq';
import { UsageError } from '../../errors.ts';

/** `ZMQ_IPC_FILTER_UID` (zmq.h): a socket bound to `ipc://` accepts processes of this user; given again, of this one too. */
const ipcFilterUid = 59;
/** Whom nothing on a machine is hidden from. */
const root = 0;

/** ZeroMQ's options that its types keep for sockets of one's own kind. */
interface Options {
  setInt32Option(option: number, value: number): void;
}

/**
 * Users whose processes may be engine workers: this one's, root, and those of `WEIGHTCAST_WORKER_UIDS`, numbers between
 * commas. Throws `UsageError`.
 */
export function workerUsers({ WEIGHTCAST_WORKER_UIDS: more = '' }: NodeJS.ProcessEnv): number[] {
  const words = more === '' ? [] : more.split(',');
  if (!words.every((word) => /^\d{1,9}$/.test(word)))
    throw new UsageError(`WEIGHTCAST_WORKER_UIDS is "${more}"; give numbers of users, as in 1000,1001`);
  return [process.getuid!(), root, ...words.map(Number)];
}

/**
 * Has a socket that is to be bound refuse processes of other users: all processes of a machine see the names of its sockets,
 * and one of them could take a worker's place, and get the weights.
 */
export function acceptWorkersOnly(socket: Socket): void {
  for (const uid of workerUsers(process.env))
    (socket as unknown as Options).setInt32Option(ipcFilterUid, uid);
}
