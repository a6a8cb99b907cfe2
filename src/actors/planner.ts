import {
  contentDigest,
  decodeManifest,
  encodeManifest,
  layoutDigest,
  type Manifest,
  mergeManifests,
} from '../checkpoint/manifest.ts';
import { type BadTensor, combineParts } from '../checkpoint/parts.ts';
import type { CheckpointIndex } from '../checkpoint/source.ts';
import { asFailure, UsageError, VerificationError } from '../errors.ts';
import type { Plan } from '../plan/buckets.ts';
import { type Dealing, dealFiles, dealWritten } from '../plan/dealing.ts';
import { PlanCache } from '../plan/plan-cache.ts';
import type { Actor, Context } from './kernel/index.ts';
import type { PlannerMessage } from './messages.ts';

type MessageOf<T extends PlannerMessage['type']> = Extract<PlannerMessage, { type: T }>;

/** What the planner may do to the world. */
export interface PlannerPorts {
  /** Reads the headers of a checkpoint's files. Rejects with `CheckpointError`. */
  openCheckpoint(source: string | readonly string[]): Promise<CheckpointIndex>;
}

/**
 * Turns checkpoints into loading orders, manifests into plans, and engine workers' reports into a verdict. It asks
 * `plan/` and remembers what is dear to compute: the manifests of registered checkpoints and the last plans.
 */
export class PlannerActor implements Actor<PlannerMessage> {
  readonly #ports: PlannerPorts;
  readonly #manifests = new Map<string, Manifest>();
  readonly #plans = new PlanCache();

  constructor(ports: PlannerPorts) {
    this.#ports = ports;
  }

  async receive(message: PlannerMessage, context: Context<PlannerMessage>): Promise<void> {
    try {
      switch (message.type) {
        case 'plan-loading':
          return context.reply(message, await this.#planLoading(message));
        case 'merge':
          return context.reply(message, this.#merge(message));
        case 'plan':
          return context.reply(message, this.#plan(message));
        case 'verify':
          this.#verify(message);
          return context.reply(message, {});
        case 'forget-layout':
          this.#manifests.delete(message.layout);
          this.#plans.forget(message.layout);
          return;
      }
    } catch (thrown) {
      // What is wrong is the question, a checkpoint or a memory size, and not the planner.
      context.fail(asFailure(thrown));
    }
  }

  async #planLoading(message: MessageOf<'plan-loading'>) {
    const { shares, segments, reused } = await this.#deal(message);
    const orders = shares.map(({ rank, manifest, segment, reads }) => ({
      rank,
      manifest: encodeManifest(manifest),
      segment,
      isThere: reused !== null,
      reads: [...reads],
      digest: message.source.kind !== 'written',
    }));
    return { orders, reused, segments: [...segments] };
  }

  async #deal({
    checkpoint,
    source,
    segmentPrefix,
    ranks,
    spare,
  }: MessageOf<'plan-loading'>): Promise<Dealing> {
    if (source.kind === 'written') {
      const shares = dealWritten(decodeManifest(source.manifest), ranks);
      return { shares, segments: [], reused: null };
    }
    const index = await this.#ports.openCheckpoint(source.kind === 'path' ? source.path : source.files);
    return dealFiles({ checkpoint, index, segmentPrefix, ranks, spare });
  }

  #merge({ parts }: MessageOf<'merge'>) {
    const manifest = mergeManifests(
      parts.map(({ manifest: encoded, digests }) => ({ ...decodeManifest(encoded), digests })),
    );
    const layout = layoutDigest(manifest);
    this.#manifests.set(layout, manifest);
    return {
      layout,
      digest: contentDigest(manifest),
      tensors: manifest.names.length,
      bytes: manifest.bytes.reduce((sum, bytes) => sum + bytes, 0),
      manifest: encodeManifest(manifest),
      segments: manifest.segments.map(({ path, host }) => ({ path, host })),
    };
  }

  #plan({ layout, ranks, memoryFraction, bucketBytes }: MessageOf<'plan'>): Plan {
    const manifest = this.#manifest(layout);
    return this.#plans.plan({ layout, manifest, ranks, fraction: memoryFraction, bucketBytes });
  }

  /** Engine workers report in the order in which tensors were announced to them, which is the plan's. */
  #verify({ layout, planDigest, instance, reports }: MessageOf<'verify'>): void {
    const manifest = this.#manifest(layout);
    const plan = this.#plans.byDigest(planDigest);
    if (plan === undefined)
      throw new UsageError(`plan ${planDigest} is no longer held; verify soon after the update`);
    const verdict = combineParts(
      reports.map(({ rank, installed }) => ({ rank, ...installed })),
      inPlanOrder(manifest.digests, plan),
    );
    if (verdict.ok) return;
    const [{ row, reason }] = verdict.bad as [BadTensor];
    const others = verdict.badCount > 1 ? ` (and ${verdict.badCount - 1} more tensors)` : '';
    const name = manifest.names[plan.tensorOrder[row]!];
    throw new VerificationError(
      `instance ${instance} does not hold the checkpoint: tensor ${name} ${reason}${others}`,
    );
  }

  #manifest(layout: string): Manifest {
    const manifest = this.#manifests.get(layout);
    if (manifest === undefined) throw new UsageError(`no registered checkpoint has the layout ${layout}`);
    return manifest;
  }
}

function inPlanOrder(digests: BigUint64Array, { tensorOrder }: Plan): BigUint64Array {
  const ordered = new BigUint64Array(tensorOrder.length);
  for (const [entry, row] of tensorOrder.entries()) ordered[entry] = digests[row]!;
  return ordered;
}
