import type { ActorRef, SpawnOptions } from '../kernel/index.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { RankMessage } from '../protocol/rank.ts';
import { type SupervisorMessage, toSupervisor } from '../protocol/supervisor.ts';
import { anyOf } from '../protocol/table.ts';
import type { WriterMessage } from '../protocol/writer.ts';
import type { LaunchedRank } from './ports.ts';

/** Everything that reaches the supervisor's mailbox: its protocol, and the deaths of actors that it watches. */
export type SupervisorInbox =
  | SupervisorMessage
  | {
      readonly type: 'rank-down';
      readonly rank: number;
      readonly ref: ActorRef<RankMessage>;
      readonly reason: string;
    }
  | { readonly type: 'writer-down'; readonly writer: ActorRef<WriterMessage> }
  /** Its deadline to become ready has passed. */
  | { readonly type: 'rank-late'; readonly rank: number; readonly process: LaunchedRank }
  /** The wait after the end of its process is over. */
  | { readonly type: 'restart-rank'; readonly rank: number; readonly process: LaunchedRank }
  | { readonly type: 'caller-late'; readonly caller: number };

export type MessageOf<T extends SupervisorInbox['type']> = Extract<SupervisorInbox, { type: T }>;

const signals: ReadonlySet<SupervisorInbox['type']> = new Set([
  'rank-down',
  'rank-late',
  'restart-rank',
  'caller-late',
  'writer-down',
  'cancel',
  'drain',
]);

export const supervisorSpawnOptions: SpawnOptions<SupervisorInbox> = {
  accepts: anyOf(toSupervisor),
  isSignal: ({ type }) => signals.has(type),
  // Its rank processes have that long to end.
  endingMilliseconds: deadlines.stopRanks,
};
