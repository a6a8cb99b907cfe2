import { Reply } from 'zeromq';
import { describe, NativeError } from '../errors.ts';
import type { Clock, Logger } from '../ports.ts';
import { keyBytes } from './curve.ts';

/**
 * The ZAP handler (RFC 27): ZeroMQ asks it whether a client that proved to own a CURVE key may connect. Without a
 * handler it admits any key. One handler serves all hubs of the process, which it tells apart by their ZAP domains;
 * it runs while there is a hub.
 */
const endpoint = 'inproc://zeromq.zap.01';

interface Admission {
  readonly keys: readonly Uint8Array[];
  readonly log: Logger;
}

const admissions = new Map<string, Admission>();
let handler: Promise<Reply> | null = null;

/** ZeroMQ releases the address of a closed socket a moment later, in the background. */
const retryMilliseconds = 5;
const retryForMilliseconds = 1_000;

/**
 * From now on admits clients with one of these public keys to sockets of this ZAP domain, and no others. The returned function
 * ends this and may be called twice; call it after the domain's sockets are closed. Rejects with `UsageError` for a
 * malformed key and `NativeError` when other code in this process handles ZAP already.
 */
export async function admit(
  domain: string,
  publicKeys: readonly string[],
  clock: Clock,
  log: Logger,
): Promise<() => void> {
  const admission = { keys: publicKeys.map(keyBytes), log };
  admissions.set(domain, admission);
  const withdraw = () => {
    if (admissions.get(domain) !== admission) return;
    admissions.delete(domain);
    if (admissions.size > 0) return;
    void handler?.then(
      (socket) => socket.close(),
      () => {},
    );
    handler = null;
  };
  try {
    handler ??= start(clock);
    await handler;
  } catch (error) {
    withdraw();
    throw error;
  }
  return withdraw;
}

async function start(clock: Clock): Promise<Reply> {
  const socket = new Reply({ linger: 0 });
  const deadline = clock.now() + retryForMilliseconds;
  for (;;) {
    try {
      socket.bindSync(endpoint);
      void serve(socket);
      return socket;
    } catch (error) {
      if (clock.now() >= deadline) {
        socket.close();
        throw new NativeError(`cannot check the keys of ZeroMQ clients at ${endpoint}: ${describe(error)}`, {
          cause: error,
        });
      }
    }
    await new Promise<void>((resolve) => clock.after(retryMilliseconds, resolve));
  }
}

async function serve(socket: Reply): Promise<void> {
  try {
    for await (const request of socket) await socket.send(answer(request));
  } catch (error) {
    // No client is admitted from now on: the safe side.
    if (!socket.closed)
      for (const { log } of admissions.values()) log.error({ error }, 'the ZAP handler failed');
  }
}

function answer(request: readonly Buffer[]): (Buffer | string)[] {
  const [version, id = '', domain = '', address = '', , mechanism, key] = request;
  const admission = admissions.get(domain.toString());
  const accepted =
    version?.toString() === '1.0' &&
    mechanism?.toString() === 'CURVE' &&
    admission !== undefined &&
    key !== undefined &&
    admission.keys.some((one) => key.equals(one));
  if (accepted) return ['1.0', id, '200', 'OK', 'spoke', ''];
  admission?.log.warn(
    { address: address.toString() },
    'refused a connection: its key does not belong to this cluster',
  );
  return ['1.0', id, '400', 'not a key of this cluster', '', ''];
}
