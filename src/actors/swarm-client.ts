import { ask } from './conversation.ts';
import { deadlines } from './deadlines.ts';
import type { ActorRef, Context } from './kernel/index.ts';
import type { ReceptionOrder } from './message-values.ts';
import { type RankMessage, type SwarmMessage, toSwarm } from './messages.ts';
import type { SwarmClient } from './receiving.ts';

/** The swarm actor, as one receiver talks to it. */
export function swarmClient(
  { swarm, ref }: ReceptionOrder,
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
