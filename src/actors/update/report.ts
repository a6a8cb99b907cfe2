import type { Plan } from '../../plan/plan.ts';
import type { Received, Streamed, UpdateReport } from '../protocol/update-values.ts';
import type { UpdateSpec } from './context.ts';
import type { Installed } from './round.ts';

export function reportOf(
  { checkpoint: { status }, exchanges }: UpdateSpec,
  installed: readonly Installed[],
  { instances, seconds }: Pick<UpdateReport, 'instances' | 'seconds'>,
): UpdateReport {
  const plans = installed.flatMap(({ open }) => open.groups.map(({ plan }) => plan));
  const streamed = installed.flatMap((one) => [...one.streamed.values()]);
  const received = receivedFrom(streamed);
  return {
    epoch: Math.max(...installed.map(({ open }) => open.epoch)),
    checkpoint: status.checkpoint,
    digest: status.digest,
    mode: plans.some(({ mode }) => mode === 'serial') ? 'serial' : 'pipelined',
    serialFrom: streamed.flatMap(({ serialFrom }) => serialFrom ?? []),
    ranks: streamed.length,
    tensors: status.tensors,
    bytes: status.bytes,
    receivedBytes: received.reduce((sum, { bytes }) => sum + bytes, 0),
    received,
    links: installed.flatMap((one) => linksOf(one, exchanges)),
    buckets: Math.max(...plans.map(({ owners }) => owners.length)),
    slots: Math.max(...plans.map(({ slots }) => slots)),
    slotBytes: Math.max(...plans.map(({ slotBytes }) => slotBytes)),
    largeSlotBytes: Math.max(...plans.map(({ largeSlotBytes }) => largeSlotBytes)),
    seconds,
    streamSeconds: streamSeconds(streamed),
    instances: [...instances],
    timelines: streamed.flatMap(({ timeline }) => timeline ?? []),
  };
}

/** What came over the links of each rank. */
function linksOf({ open, streamed }: Installed, exchanges: number): UpdateReport['links'] {
  const planOf = new Map(open.groups.flatMap(({ plan, ranks }) => ranks.map(({ rank }) => [rank, plan])));
  const sentOf = new Map(open.groups.map(({ plan }) => [plan, sentBytes(plan)]));
  return [...streamed].map(([rank, { uploadedBytes }]) => {
    const { all, byOwner } = sentOf.get(planOf.get(rank)!)!;
    return { rank, uploadedBytes, broadcastBytes: (all - (byOwner.get(rank) ?? 0)) * exchanges };
  });
}

/** Of a plan's buckets, all bytes, and those of each owner. */
function sentBytes({ owners, bucketBytes }: Plan) {
  const byOwner = new Map<number, number>();
  let all = 0;
  for (const [bucket, bytes] of bucketBytes.entries()) {
    all += bytes;
    byOwner.set(owners[bucket]!, (byOwner.get(owners[bucket]!) ?? 0) + bytes);
  }
  return { all, byOwner };
}

function receivedFrom(streamed: readonly Streamed[]): Received[] {
  const sums = new Map<string, Received>();
  for (const one of streamed.flatMap(({ received }) => received)) {
    const key = `${one.from} ${one.over}`;
    const known = sums.get(key);
    sums.set(key, { ...(known ?? one), bytes: (known?.bytes ?? 0) + one.bytes });
  }
  return [...sums.values()].sort((one, other) => one.from - other.from);
}

/** From the first upload to the last acknowledgement. */
function streamSeconds(streamed: readonly Streamed[]): number {
  const starts = streamed.flatMap(({ startedAt }) => startedAt ?? []);
  const ends = streamed.flatMap(({ endedAt }) => endedAt ?? []);
  if (starts.length === 0 || ends.length === 0) return 0;
  return Math.max(0, Math.max(...ends) - Math.min(...starts)) / 1000;
}
