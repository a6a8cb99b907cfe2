import type { SpawnOptions } from '../kernel/index.ts';
import {
  anyOf,
  type RankMessage,
  type SupervisorMessage,
  type SwarmMessage,
  toRank,
  toSupervisor,
  toSwarm,
} from './messages.ts';

/** What the actors that other processes reach let in, and which of it overtakes the rest. */

export const supervisorEntrance: SpawnOptions<SupervisorMessage> = {
  accepts: anyOf(toSupervisor) as never,
  isSignal: ({ type }) => type === 'rank-down' || type === 'rank-exited' || type === 'cancel',
};

export const rankEntrance: SpawnOptions<RankMessage> = {
  accepts: anyOf(toRank) as never,
  isSignal: ({ type }) => type === 'abort',
};

export const swarmEntrance: SpawnOptions<SwarmMessage> = {
  accepts: anyOf(toSwarm) as never,
};
