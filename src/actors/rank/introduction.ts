import { AbortedError } from '../../errors.ts';
import type { ActorRef } from '../kernel/index.ts';
import type { RankMessage } from '../protocol/rank.ts';
import type { ReadyRank, SupervisorMessage } from '../protocol/supervisor.ts';
import type { RankPorts } from './ports.ts';

/** How a rank that owns its device introduces itself to a supervisor. */
export function introductionOf(
  ports: RankPorts,
  ref: ActorRef<RankMessage>,
  epochs: ReadyRank['epochs'],
): SupervisorMessage {
  const { rank, device, host, directory, directoryId, nics, collectiveScope, pid } = ports;
  const { uuid: deviceUuid } = device;
  const place = { deviceUuid, host, directory, directoryId, nics: [...nics], collectiveScope, pid };
  return { type: 'rank-ready', rank, ref, ...place, epochs };
}

/** How it refuses a message of an epoch that is over for it. */
export function staleError(
  rank: number,
  epoch: number,
  message: { readonly type: string; readonly epoch: number },
): AbortedError {
  return new AbortedError(
    `rank ${rank} is at epoch ${epoch} and ignores ${message.type} of epoch ${message.epoch}`,
  );
}
