export type {
  Actor,
  AskOptions,
  Context,
  Down,
  MailboxPolicy,
  Reply,
  SpawnOptions,
  SupervisionPolicy,
} from './actor.ts';
export type { ActorAddress, ActorRef, ReplyOf, Request } from './ref.ts';
export { formatRef, sameActor } from './ref.ts';
export { replyLater } from './reply-later.ts';
export type { SystemCounters } from './runtime.ts';
export { restartForEver } from './supervision.ts';
export { ActorSystem, type SystemCensus } from './system.ts';
export type { Envelope, PeerEvent, Transport } from './transport.ts';
export type { TurnCount } from './turns.ts';
