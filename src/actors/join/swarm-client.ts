import type { ActorRef, Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { ReceptionRequest } from '../protocol/join-values.ts';
import type { RankMessage } from '../protocol/rank.ts';
import { type SwarmMessage, toSwarm } from '../protocol/swarm.ts';
import type { SwarmClient } from './receiver.ts';

/** The swarm actor, as one receiver talks to it. */
export function swarmClient(
  { swarm, ref }: ReceptionRequest,
  rank: number,
  context: Context<RankMessage>,
): SwarmClient {
  const actor: ActorRef<SwarmMessage> = ref;
  const options = { deadlineMilliseconds: deadlines.control };
  return {
    async join(pieces) {
      await ask(context, actor, toSwarm.joinSwarm, { swarm, rank, pieces }, options);
    },
    next: (report) => ask(context, actor, toSwarm.nextReads, { swarm, rank, ...report }, options),
    leave: () => context.tell(actor, { type: 'leave-swarm', swarm, rank }),
  };
}
