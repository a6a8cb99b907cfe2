import type { ActorRef, SpawnOptions } from '../kernel/index.ts';
import type { BridgeMessage } from '../protocol/bridge.ts';
import type { RankMessage } from '../protocol/rank.ts';
import { type SupervisorMessage, toSupervisor } from '../protocol/supervisor.ts';
import { anyOf } from '../protocol/table.ts';
import type { WriterMessage } from '../protocol/writer.ts';
import type { Work } from './jobs.ts';
import type { LaunchedRank } from './ports.ts';

/** Everything that reaches the supervisor's mailbox: its protocol, and what it sends to itself. */
export type SupervisorInbox =
  | SupervisorMessage
  | { readonly type: 'launch-rank'; readonly rank: number }
  | { readonly type: 'bridge-open'; readonly instance: string; readonly bridge: ActorRef<BridgeMessage> }
  | {
      readonly type: 'rank-down';
      readonly rank: number;
      readonly ref: ActorRef<RankMessage>;
      readonly reason: string;
    }
  | {
      readonly type: 'rank-exited';
      readonly rank: number;
      readonly process: LaunchedRank;
      readonly reason: string;
    }
  | { readonly type: 'writer-down'; readonly writer: ActorRef<WriterMessage> }
  | { readonly type: 'engines-touched'; readonly instances: readonly string[] }
  /** A registration or an update is over; `settle` does what follows from it. */
  | { readonly type: 'work-ended'; readonly work: Work; readonly settle: () => void };

export const supervisorSpawnOptions: SpawnOptions<SupervisorInbox> = {
  accepts: anyOf(toSupervisor),
  isSignal: ({ type }) => type === 'rank-down' || type === 'rank-exited' || type === 'cancel',
};
