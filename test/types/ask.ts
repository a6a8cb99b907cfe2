import type { ActorRef, Context } from '../../src/actors/kernel/index.ts';
import { ask } from '../../src/actors/protocol/ask.ts';
import { toBridge } from '../../src/actors/protocol/bridge.ts';
import type { PlannerMessage } from '../../src/actors/protocol/planner.ts';
import { type RankMessage, toRank } from '../../src/actors/protocol/rank.ts';

/**
 * Checked by `npm run typecheck`, which fails when one of the lines marked `@ts-expect-error` compiles: an actor can
 * only be asked what its protocol has. Never called.
 */
export async function questions(
  context: Context<never>,
  planner: ActorRef<PlannerMessage>,
  rank: ActorRef<RankMessage>,
): Promise<void> {
  const within = { deadlineMilliseconds: 1 };
  // @ts-expect-error A planner takes no message of a rank.
  await ask(context, planner, toRank.abort, { epoch: 1, reason: 'x' }, within);
  // @ts-expect-error A planner takes no message of a bridge.
  await ask(context, planner, toBridge.resume, { timeoutMilliseconds: 1 }, within);
  // @ts-expect-error `abort` needs a reason.
  await ask(context, rank, toRank.abort, { epoch: 1 }, within);
  (await ask(context, rank, toRank.prepare, { epoch: 1 }, within)).freeBytes;
}
