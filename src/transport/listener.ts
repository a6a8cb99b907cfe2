import type { Envelope, PeerEvent } from '../actors/kernel/transport.ts';
import { describe } from '../errors.ts';
import type { Logger } from '../ports.ts';

export interface Listener {
  onEnvelope(from: string, envelope: Envelope): void;
  onPeer(event: PeerEvent): void;
}

/** Logs what the listener throws, so that the transport that calls it goes on. */
export function guarded(listener: Listener, log: Logger): Listener {
  const callSafely = (call: () => void) => {
    try {
      call();
    } catch (error) {
      log.error({ error }, `the listener of a transport threw: ${describe(error)}`);
    }
  };
  return {
    onEnvelope: (from, envelope) => callSafely(() => listener.onEnvelope(from, envelope)),
    onPeer: (event) => callSafely(() => listener.onPeer(event)),
  };
}
