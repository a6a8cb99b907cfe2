import { CheckpointError, UsageError } from '../../errors.ts';
import { serversAmong } from '../../plan/reception.ts';
import type { Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import type { ForeignSource, Registered } from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { toRank } from '../protocol/rank.ts';
import type { SupervisorInbox } from './inbox.ts';
import type { RankMember } from './rank-registry.ts';

/**
 * Has ranks expose all segments of a checkpoint, so that other clusters can read them until it is replaced. Rejects with
 * a CheckpointError for a segment on a host without ranks, and a UsageError if another cluster holds the checkpoint.
 */
export async function exposeCheckpoint(
  context: Context<SupervisorInbox>,
  { status, segments, foreign }: Registered,
  members: readonly RankMember[],
): Promise<ForeignSource[]> {
  if (foreign !== null) {
    throw new UsageError(
      `checkpoint ${status.checkpoint} is held by another cluster, whose metas are as good`,
    );
  }
  const serverOf = serversAmong(members);
  const pathsOf = new Map<number, string[]>();
  for (const segment of segments) {
    const server = serverOf(segment);
    if (server === null) {
      throw new CheckpointError(
        `${segment.path} lies on host ${segment.host}, where no rank can be read from`,
      );
    }
    pathsOf.set(server, [...(pathsOf.get(server) ?? []), segment.path]);
  }
  const serving = members.filter(({ rank }) => pathsOf.has(rank));
  return Promise.all(
    serving.map(async ({ rank, ref, host, nics }) => {
      const question = { segments: pathsOf.get(rank)! };
      const options = { deadlineMilliseconds: deadlines.open };
      const { address, exposed } = await ask(context, ref, toRank.expose, question, options);
      return { rank, host, nics: [...nics], address, segments: exposed };
    }),
  );
}
