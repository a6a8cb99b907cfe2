import type { WireError } from '../../errors.ts';
import type { ActorAddress } from './ref.ts';

/**
 * What travels between kernels. `tell` and `ask` carry a message for an actor, `reply` and `failure` answer an
 * `ask` by its id; `watch`, `unwatch` and `down` are death watch across processes.
 */
export type Envelope =
  | {
      readonly kind: 'tell';
      readonly to: ActorAddress;
      readonly from: ActorAddress | null;
      readonly body: unknown;
    }
  | {
      readonly kind: 'ask';
      readonly to: ActorAddress;
      readonly from: ActorAddress | null;
      readonly id: number;
      readonly body: unknown;
    }
  | { readonly kind: 'reply'; readonly id: number; readonly body: unknown }
  | { readonly kind: 'failure'; readonly id: number; readonly error: WireError }
  | { readonly kind: 'watch' | 'unwatch'; readonly target: ActorAddress; readonly watcher: ActorAddress }
  | {
      readonly kind: 'down';
      readonly target: ActorAddress;
      readonly watcher: ActorAddress;
      readonly reason: string;
    };

/** Another process was connected, or is lost for good: a node name never comes back. */
export interface PeerEvent {
  readonly node: string;
  readonly state: 'up' | 'down';
  readonly reason: string;
  /** It has ended, and said so: it is not lost. */
  readonly isFarewell?: boolean;
}

/** The port through which kernels reach each other. */
export interface Transport {
  /** The name under which others reach this process; ends with its incarnation. */
  readonly node: string;
  /**
   * Queues an envelope for another node; delivery is at most once and in order per node. Throws `PeerLostError`
   * when the node is not connected, `OverloadedError` when its queue is full.
   */
  send(node: string, envelope: Envelope): void;
  /** Sets the only receiver of what arrives. */
  listen(onEnvelope: (from: string, envelope: Envelope) => void, onPeer: (event: PeerEvent) => void): void;
  /** Sends what is queued, within the deadline, and closes all sockets. */
  close(deadlineMilliseconds: number): Promise<void>;
}
