import type { ActorRef } from '../kernel/index.ts';
import type { RankMessage } from '../protocol/rank.ts';
import type { SupervisorMessage } from '../protocol/supervisor.ts';
import type { RankPorts } from './ports.ts';

/** What a rank that owns its device tells the supervisor of itself. */
export function introductionOf(ports: RankPorts, ref: ActorRef<RankMessage>): SupervisorMessage {
  return {
    type: 'rank-ready',
    rank: ports.rank,
    ref,
    deviceUuid: ports.device.uuid,
    host: ports.host,
    directory: ports.directory,
    directoryId: ports.directoryId,
    nics: [...ports.nics],
    collectiveScope: ports.collectiveScope,
    pid: ports.pid,
  };
}
