import { isDeepStrictEqual } from 'node:util';
import * as z from 'zod';
import { EngineError } from '../errors.ts';
import { protocolVersion, understands } from './worker-link/messages.ts';

/** What becomes of a worker's draft model in an update. */
export const draftSaid = z.object({
  /**
   * It has none, takes the weights along with the target, apart from it if the instance has `hasDraftModel`, or keeps its own.
   */
  takes: z.enum(['none', 'along', 'apart', 'nothing']),
  /** Why it keeps its own, or what is to be done that it does not; null if it takes them. */
  why: z.string().nullable(),
  /** As of the workers, for an update in which it takes the weights apart. */
  refusal: z.string().nullable(),
  unproven: z.string().nullable(),
});

/**
 * What an engine's workers say of themselves before the engine is paused (python/weightcast/vllm_state.py), all of them
 * together. Workers of earlier versions say the protocol alone, and nothing is known of the rest.
 */
export const workersSaid = z.object({
  /** Version of the worker link in which ranks and workers understand each other. */
  protocol: z.int(),
  /** UUIDs of their GPUs, without those on none. */
  devices: z.array(z.string()),
  /** Why they cannot be updated. */
  refusal: z.string().nullable(),
  /** Why they are not known to answer rightly after an update. */
  unproven: z.string().nullable(),
  /** Nothing of this changes but with updates. */
  isSteady: z.boolean(),
  draft: draftSaid.nullable(),
  /**
   * What they copy of a layer until it is whole is in the memory of their devices: of the experts this share at most, of all
   * else everything. Null: nothing is, or nobody knows.
   */
  waiting: z.object({ experts: z.number().min(0).max(1) }).nullable(),
  /**
   * What weightcast has given them last, whichever cluster: a version, or parts of several (null). `nothing`: they have been
   * given nothing since they were started. `foreign`: somebody else has changed what they were given. `unknown`: they do not say.
   */
  held: z.union([z.literal(['nothing', 'foreign', 'unknown']), z.object({ version: z.string().nullable() })]),
});
export type WorkersSaid = z.infer<typeof workersSaid>;

/** What one worker says. What has another form than it should is not said. */
const workerSaid = z.object({
  protocol: z.int(),
  device: z.string().nullable().catch(null),
  refusal: workersSaid.shape.refusal.catch(null),
  unproven: workersSaid.shape.unproven.catch(null),
  isSteady: z.boolean().catch(true),
  draft: draftSaid.nullable().catch(null),
  waiting: workersSaid.shape.waiting.catch(null),
  held: z
    .object({ version: z.string().nullable(), isForeign: z.boolean().default(false) })
    .nullable()
    .transform((held) => (held === null ? 'nothing' : held.isForeign ? 'foreign' : { version: held.version }))
    .or(z.undefined().transform(() => 'unknown' as const))
    .catch('unknown'),
});

/** Null if not all of the answers say a protocol, and the same. */
export function workersOf(answers: readonly unknown[]): WorkersSaid | null {
  const said = answers.flatMap((answer) => workerSaid.safeParse(answer).data ?? []);
  const [first, ...others] = said;
  if (first === undefined || said.length < answers.length) return null;
  if (others.some(({ protocol }) => protocol !== first.protocol)) return null;
  const one = (of: (worker: (typeof said)[number]) => string | null) =>
    said.map(of).find((why) => why !== null) ?? null;
  const shares = said.flatMap(({ waiting }) => waiting?.experts ?? []);
  return {
    protocol: first.protocol,
    devices: said.flatMap(({ device }) => device ?? []),
    refusal: one(({ refusal }) => refusal),
    unproven: one(({ unproven }) => unproven),
    isSteady: said.every(({ isSteady }) => isSteady),
    draft: first.draft && {
      ...first.draft,
      refusal: one(({ draft }) => draft?.refusal ?? null),
      unproven: one(({ draft }) => draft?.unproven ?? null),
    },
    waiting: shares.length === 0 ? null : { experts: Math.max(...shares) },
    held: heldByAll(said.map(({ held }) => held)),
  };
}

function heldByAll(held: readonly WorkersSaid['held'][]): WorkersSaid['held'] {
  const [first, ...others] = held;
  if (others.every((one) => isDeepStrictEqual(one, first))) return first!;
  return (['foreign', 'unknown'] as const).find((word) => held.includes(word)) ?? { version: null };
}

/** What workers say that say no more than which protocol they speak. */
export function onlyProtocol(protocol: number): WorkersSaid {
  return workersOf([{ protocol }])!;
}

/** Throws `EngineError` for workers of a version that ranks do not understand. */
export function checkProtocol(endpoint: string, theirs: number): void {
  if (understands(theirs)) return;
  const versions = `${theirs} of the worker link, this weightcast version ${protocolVersion}`;
  throw new EngineError(
    `the workers of engine ${endpoint} speak version ${versions}: install the same version of weightcast there`,
  );
}

/** What an engine says of the weights that it was given. */
export interface SaidOfWeights extends Pick<WorkersSaid, 'held'> {
  /** What it calls them, which is what somebody has told it; null if it does not say. */
  readonly version: string | null;
  /** What it called them when it was asked before: it may not have heard of their version. */
  readonly before: string | null;
}

/**
 * What an engine says that an instance which serves this version cannot say; null if nothing. Its workers know what they have
 * been given; where they do not say, what it calls them counts.
 */
export function contradiction(
  version: string,
  { version: label, before, held }: SaidOfWeights,
): string | null {
  if (held === 'unknown') {
    if (label === null || label === version || label === before) return null;
    return `its engine says that its weights are ${label}, not ${version}: it was started again, or someone else has updated it`;
  }
  if (held === 'nothing') return `its engine's workers have got no weights since they were started`;
  if (held === 'foreign')
    return `its engine's workers hold other weights than weightcast gave them: someone else has changed them, or they were asleep without a copy`;
  if (held.version === null)
    return `its engine's workers hold parts of several versions: someone else's update of it has failed, or is under way`;
  if (held.version === version) return null;
  return `its engine's workers hold ${held.version}, not ${version}: someone else has updated it`;
}
