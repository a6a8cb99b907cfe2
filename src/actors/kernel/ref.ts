/**
 * Where an actor lives. Local and remote refs look the same and may be sent in messages.
 *
 * `node` names one run of one process (it ends with that run's incarnation) and `generation` one life of the
 * actor's name on it, so an old ref never reaches a new actor. Generation 0 means "the actor that has
 * this name now" and is for first contact only.
 */
export interface ActorAddress {
  readonly node: string;
  readonly name: string;
  readonly generation: number;
}

declare const messageType: unique symbol;
declare const replyType: unique symbol;

/** An address that only takes messages of type `M`. */
export type ActorRef<M> = ActorAddress & { readonly [messageType]?: (message: M) => void };

/** A message that is answered with an `R`; `ask` returns it. */
export interface Request<R> {
  readonly [replyType]?: R;
}

export type ReplyOf<Q> = Q extends Request<infer R> ? R : never;

export function sameActor(one: ActorAddress, other: ActorAddress): boolean {
  return one.node === other.node && one.name === other.name && one.generation === other.generation;
}

export function formatRef(ref: ActorAddress): string {
  return `${ref.name}#${ref.generation}@${ref.node}`;
}
