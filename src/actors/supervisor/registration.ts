import { asFailure, CheckpointError, fromWire, UsageError, type WeightcastError } from '../../errors.ts';
import { chooseLoadingHosts } from '../../plan/loading-hosts.ts';
import type { ActorRef, Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import type {
  CheckpointSource,
  FileSource,
  Loadable,
  Merged,
  OwnSegment,
  Registered,
} from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { type PlannerMessage, toPlanner } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';

export interface RegistrationSpec {
  readonly checkpoint: string;
  readonly source: CheckpointSource;
  /** Those that have to load the files; undefined for all that see the same files. */
  readonly hosts: readonly string[] | undefined;
  /** Name of new segments in their host's directory, to which each rank's number is appended. */
  readonly segmentName: string;
  /** Sets of segments that may be reused, the preferred one first. */
  readonly spare: readonly (readonly OwnSegment[])[];
  readonly ranks: readonly ReadyRank[];
  /** The duration of the registration counts from here. */
  readonly startedAt: number;
  readonly planner: ActorRef<PlannerMessage>;
  /**
   * Called before ranks fill `segments`. `reused` is the spare set that they belong to, null for new ones. Returns false
   * if that set is no longer spare; then the loading is planned again, with new segments.
   */
  readonly claim: (segments: readonly OwnSegment[], reused: readonly OwnSegment[] | null) => boolean;
}

type Asker = Pick<Context<never>, 'ask' | 'clock' | 'log'>;

/**
 * Brings a checkpoint into host memory: the planner reads the headers, a rank of each host looks whether the files are the
 * same there, the planner assigns the bytes to the ranks of hosts where they are, each of these loads its share and computes
 * its digests, and the planner merges the shares into one manifest.
 */
export async function registerCheckpoint(
  asker: Asker,
  spec: RegistrationSpec,
  signal: AbortSignal,
): Promise<Registered> {
  const { ranks, planner, startedAt, source } = spec;
  if (source.kind === 'metas') return adoptMetas(asker, spec, source, signal);
  const loadable =
    source.kind === 'written'
      ? { kind: source.kind, manifest: source.manifest }
      : await openFiles(asker, spec, source, signal);
  const shares =
    (await planLoading(asker, spec, loadable, spec.spare, signal)) ??
    (await planLoading(asker, spec, loadable, [], signal));
  const memberOf = new Map(ranks.map((ready) => [ready.rank, ready]));
  const isAlone = new Set(ranks.map(({ host }) => host)).size === 1;
  const parts = await Promise.all(
    shares!.map(async (share) => {
      const { rank, host, ref } = memberOf.get(share.rank)!;
      const options = { deadlineMilliseconds: deadlines.load, signal };
      try {
        const { digests } = await ask(asker, ref, toRank.load, { order: share }, options);
        return { manifest: share.manifest, digests };
      } catch (thrown) {
        const error = asFailure(thrown);
        throw isAlone ? error : onHost(error, rank, host);
      }
    }),
  );
  const options = { deadlineMilliseconds: deadlines.plan, signal };
  const merged = await ask(asker, planner, toPlanner.merge, { parts }, options);
  const seconds = (asker.clock.now() - startedAt) / 1000;
  return { ...asRegistered(spec.checkpoint, merged, seconds), foreign: null, segments: merged.segments };
}

/** The same error, with the host where it happened. */
function onHost(error: WeightcastError, rank: number, host: string): WeightcastError {
  if (error.message.includes(`host ${host}`)) return error;
  return fromWire({ code: error.code, message: `rank ${rank} on host ${host}: ${error.message}` });
}

/** Opens a checkpoint's files, and finds the hosts that load them. */
async function openFiles(
  asker: Asker,
  { checkpoint, hosts: chosen, ranks, planner }: RegistrationSpec,
  source: FileSource,
  signal: AbortSignal,
): Promise<Loadable> {
  const idle = chosen?.find((host) => !ranks.some((ready) => ready.host === host));
  if (idle !== undefined) throw new UsageError(`host ${idle} has no rank that could load ${checkpoint}`);
  const options = { deadlineMilliseconds: deadlines.plan, signal };
  const { number, files } = await ask(asker, planner, toPlanner.openFiles, { source }, options);
  const question = { files: files.map(({ path, identity }) => ({ path, known: identity })) };
  const firstOfHost = new Map([...ranks].reverse().map((ready) => [ready.host, ready]));
  const views = await Promise.all(
    ranks
      .filter((ready) => firstOfHost.get(ready.host) === ready && (chosen?.includes(ready.host) ?? true))
      .map(async ({ host, ref }) => ({
        host,
        files: (await ask(asker, ref, toRank.examine, question, options)).files,
      })),
  );
  const { hosts, others } = chooseLoadingHosts(files, views);
  if (chosen !== undefined && others.length > 0) throw new CheckpointError(others[0]!.reason);
  for (const { host, reason } of others) {
    asker.log.warn({ host, reason }, `the host does not load ${checkpoint}; it gets it from other hosts`);
  }
  return { kind: 'opened', number, hosts: hosts.map((one) => ({ ...one })) };
}

/** A checkpoint in the memory of another cluster: nothing is loaded, ranks read what they need from there. */
async function adoptMetas(
  asker: Asker,
  { checkpoint, planner }: RegistrationSpec,
  { manifest, secret, sources }: Extract<CheckpointSource, { kind: 'metas' }>,
  signal: AbortSignal,
): Promise<Registered> {
  const options = { deadlineMilliseconds: deadlines.plan, signal };
  const adopted = await ask(asker, planner, toPlanner.adopt, { manifest }, options);
  return { ...asRegistered(checkpoint, adopted, 0), foreign: { secret, sources }, segments: [] };
}

function asRegistered(checkpoint: string, merged: Merged, seconds: number) {
  const { layout, digest, tensors, bytes, manifest } = merged;
  return { copies: [], lost: [], status: { checkpoint, digest, tensors, bytes, seconds }, layout, manifest };
}

/** Returns each rank's share; null if the chosen spare set was claimed by another registration meanwhile. */
async function planLoading(
  asker: Asker,
  { checkpoint, segmentName, ranks, planner, claim }: RegistrationSpec,
  source: Loadable,
  spare: RegistrationSpec['spare'],
  signal: AbortSignal,
) {
  const question = {
    checkpoint,
    source,
    segmentName,
    ranks: ranks.map(({ rank, host, directory, deviceUuid }) => ({ rank, host, directory, deviceUuid })),
    spare: spare.map((set) => [...set]),
  };
  const options = { deadlineMilliseconds: deadlines.plan, signal };
  const { orders, reused, segments } = await ask(asker, planner, toPlanner.planLoading, question, options);
  if (segments.length === 0) return orders;
  return claim(segments, reused === null ? null : spare[reused]!) ? orders : null;
}
