import { isOnDevice, segmentFile } from '../../checkpoint/file-identity.ts';
import { CheckpointError, UsageError } from '../../errors.ts';
import { serversAmong } from '../../plan/reception.ts';
import type { Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import type { ForeignSource, Registered } from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { toRank } from '../protocol/rank.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';

/**
 * Has ranks expose all segments of a checkpoint to other clusters, until the segments are released. Rejects with
 * `CheckpointError` for a segment on a host without ready ranks, and with `UsageError` for a checkpoint that is itself in
 * the memory of another cluster.
 */
export async function exposeCheckpoint(
  asker: Pick<Context<never>, 'ask'>,
  { status, segments, foreign }: Registered,
  ranks: readonly ReadyRank[],
): Promise<ForeignSource[]> {
  if (foreign !== null) {
    throw new UsageError(
      `checkpoint ${status.checkpoint} is in the memory of another cluster; use the metas file of that cluster`,
    );
  }
  const onDevice = segments.find(({ path }) => isOnDevice(path));
  if (onDevice !== undefined)
    throw new UsageError(
      `checkpoint ${status.checkpoint} is in the memory of the device of rank ${onDevice.rank}, which other clusters cannot read: publish it without on_device`,
    );
  const serverOf = serversAmong(ranks);
  const pathsOf = new Map<number, string[]>();
  for (const segment of segments) {
    const server = serverOf(segment);
    if (server === null) {
      throw new CheckpointError(
        `no rank is ready on host ${segment.host}, which has ${segmentFile(segment.path)}`,
      );
    }
    pathsOf.set(server, [...(pathsOf.get(server) ?? []), segment.path]);
  }
  const serving = ranks.filter(({ rank }) => pathsOf.has(rank));
  return Promise.all(
    serving.map(async ({ rank, ref, host, nics }) => {
      const question = { segments: pathsOf.get(rank)! };
      const options = { deadlineMilliseconds: deadlines.open };
      const { address, exposed } = await ask(asker, ref, toRank.expose, question, options);
      return { rank, host, nics: [...nics], address, segments: exposed };
    }),
  );
}
