import type { ActorRef, SpawnOptions } from '../kernel/index.ts';
import type { RankMessage } from '../protocol/rank.ts';
import { type SupervisorMessage, toSupervisor } from '../protocol/supervisor.ts';
import { anyOf } from '../protocol/table.ts';
import type { WriterMessage } from '../protocol/writer.ts';

/** Everything that reaches the supervisor's mailbox: its protocol, and the deaths of actors that it watches. */
export type SupervisorInbox =
  | SupervisorMessage
  | {
      readonly type: 'rank-down';
      readonly rank: number;
      readonly ref: ActorRef<RankMessage>;
      readonly reason: string;
    }
  | { readonly type: 'writer-down'; readonly writer: ActorRef<WriterMessage> };

export type MessageOf<T extends SupervisorInbox['type']> = Extract<SupervisorInbox, { type: T }>;

export const supervisorSpawnOptions: SpawnOptions<SupervisorInbox> = {
  accepts: anyOf(toSupervisor),
  isSignal: ({ type }) =>
    type === 'rank-down' || type === 'writer-down' || type === 'cancel' || type === 'drain',
};
