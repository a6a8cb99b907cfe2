import { createHash } from 'node:crypto';
import {
  arrivalDigest,
  contentDigest,
  decodeManifest,
  encodeManifest,
  layoutDigests,
  type Manifest,
  ManifestMerger,
} from '../../checkpoint/manifest.ts';
import { checkManifestSize } from '../../checkpoint/manifest-size.ts';
import { packPaths } from '../../checkpoint/segment-paths.ts';
import type { CheckpointIndex } from '../../checkpoint/source.ts';
import { asFailure, UsageError } from '../../errors.ts';
import { planUpdate } from '../../plan/buckets.ts';
import { type FusedModules, type FusedUnits, fusedUnits } from '../../plan/fused-tensors.ts';
import { assignWritten, FileAssigner, type FileAssignments } from '../../plan/load-assignment.ts';
import { PlanCache } from '../../plan/plan-cache.ts';
import { planReception, servedBy, withLost } from '../../plan/reception.ts';
import { cutSlices, type Slices } from '../../plan/slices.ts';
import { type Actor, type Context, replyLater, restartForEver, type SpawnOptions } from '../kernel/index.ts';
import type { LoadRequest, Merged } from '../protocol/checkpoint-values.ts';
import type { PartsPlanned, Planned } from '../protocol/plan-values.ts';
import type { PlannerMessage } from '../protocol/planner.ts';
import { Arrivals } from './arrivals.ts';
import { PartsPlanner } from './parts-planner.ts';

type MessageOf<T extends PlannerMessage['type']> = Extract<PlannerMessage, { type: T }>;

/** The planner's access to the world. */
export interface PlannerPorts {
  /** Reads the headers of a checkpoint's files. Rejects with `CheckpointError`. */
  openCheckpoint(source: string | readonly string[]): Promise<CheckpointIndex>;
  /** Resolves when the event loop has done what else was due: whoever waits for this process must not take it for dead. */
  breathe(): Promise<void>;
}

/** It keeps nothing that cannot be had again, so a crash costs the request that it was at. */
export const plannerSpawnOptions: SpawnOptions<PlannerMessage> = { supervision: restartForEver };

/**
 * Assigns the loading of checkpoints to ranks, merges and plans their manifests, and verifies engine workers' digests. The
 * computing is in `plan/`; the planner caches what is expensive: the manifests of registered checkpoints and recent plans.
 */
export class PlannerActor implements Actor<PlannerMessage> {
  readonly #ports: PlannerPorts;
  readonly #recall: (layout: string) => Uint8Array | null;
  /** By layout, each with its lasting layout, by which plans are kept. */
  readonly #manifests = new Map<string, { readonly manifest: Manifest; readonly lasting: string }>();
  /** Layouts of which it is not known yet whether they were registered. */
  readonly #merged = new Set<string>();
  readonly #plans = new PlanCache();
  readonly #partsPlanner: PartsPlanner;
  readonly #arrivals: Arrivals;
  /** `arrivalDigest` of manifests. */
  readonly #expected = new WeakMap<Manifest, string>();
  /** Of the checkpoint that was planned last. */
  #parts: { readonly key: string; readonly slices: Slices; readonly units: FusedUnits } | null = null;

  readonly #assigner = new FileAssigner();
  readonly #merger = new ManifestMerger();
  /** What the encoded shares of a loading are, which come back with the digests. */
  readonly #made = new WeakMap<Uint8Array, Manifest>();

  /** The files that were opened last: one registration runs at a time. */
  #opened: { readonly number: number; readonly index: CheckpointIndex } | null = null;

  /** `recall`: the encoded manifest of a registered checkpoint with that layout, for a planner that was restarted. */
  constructor(ports: PlannerPorts, recall: (layout: string) => Uint8Array | null = () => null) {
    this.#ports = ports;
    this.#recall = recall;
    this.#partsPlanner = new PartsPlanner(() => ports.breathe());
    this.#arrivals = new Arrivals(() => ports.breathe());
  }

  receive(message: PlannerMessage, context: Context<PlannerMessage>): void {
    try {
      switch (message.type) {
        // Beside the mailbox: a file system that hangs, or a million tensors, stops no update.
        case 'open-files':
          return replyLater(context.deferReply(message), this.#openFiles(message));
        case 'plan-loading':
          return replyLater(context.deferReply(message), this.#planLoading(message));
        case 'merge':
          return replyLater(context.deferReply(message), this.#merge(message));
        case 'adopt':
          return replyLater(context.deferReply(message), this.#keep(decodeManifest(message.manifest)));
        case 'plan':
          return context.reply(message, this.#plan(message));
        case 'plan-parts':
          return replyLater(context.deferReply(message), this.#planParts(message));
        case 'check-reads':
          return context.reply(
            message,
            this.#partsPlanner.checkReads(message.ranks, this.#known(message.layout).manifest),
          );
        case 'learn-parts':
          return this.#partsPlanner.learn(message.digest, message.cuts);
        case 'verify':
          return replyLater(context.deferReply(message), this.#verify(message));
        case 'release-layout':
          return this.#release(message.layout);
      }
    } catch (thrown) {
      // The request, the checkpoint or the memory is at fault, not the planner.
      context.fail(asFailure(thrown));
    }
  }

  async #openFiles({ source }: MessageOf<'open-files'>) {
    const index = await this.#ports.openCheckpoint(source.kind === 'path' ? source.path : source.files);
    this.#opened = { number: (this.#opened?.number ?? 0) + 1, index };
    const files = index.files.map(({ path, identity }) => ({ path, identity }));
    return { number: this.#opened.number, files };
  }

  async #planLoading(message: MessageOf<'plan-loading'>) {
    const { shares, segments, reused } = this.#deal(message);
    const orders: LoadRequest[] = [];
    for (const { rank, manifest, segment, reads } of shares) {
      await this.#ports.breathe();
      const encoded = encodeManifest(manifest);
      this.#made.set(encoded, manifest);
      orders.push({
        rank,
        manifest: encoded,
        segment,
        exists: reused !== null,
        reads: [...reads],
        digest: message.source.kind !== 'written',
      });
    }
    return { orders, reused, segments: [...segments] };
  }

  #deal({ checkpoint, source, segmentName, ranks, spare }: MessageOf<'plan-loading'>): FileAssignments {
    if (source.kind === 'written') {
      const shares = assignWritten(decodeManifest(source.manifest), ranks);
      return { shares, segments: [], reused: null };
    }
    if (this.#opened?.number !== source.number) {
      throw new UsageError(`the files of ${checkpoint} are no longer open: others were opened since`);
    }
    const { index } = this.#opened;
    checkManifestSize(checkpoint, index.names);
    const identitiesOf = new Map(source.hosts.map(({ host, identities }) => [host, identities]));
    const loading = ranks.filter(({ host }) => identitiesOf.has(host));
    return this.#assigner.assign({ checkpoint, index, identitiesOf, segmentName, ranks: loading, spare });
  }

  async #merge({ parts }: MessageOf<'merge'>): Promise<Merged> {
    const decoded: Manifest[] = [];
    for (const { manifest, digests } of parts) {
      decoded.push({ ...(this.#made.get(manifest) ?? decodeManifest(manifest)), digests });
      await this.#ports.breathe();
    }
    return this.#keep(this.#merger.merge(decoded));
  }

  /** Throws a `CheckpointError` for what could not be planned, or would not fit into messages. */
  async #keep(manifest: Manifest): Promise<Merged> {
    checkManifestSize(manifest.checkpoint, manifest.names);
    await this.#ports.breathe();
    const { layout: places, lasting } = layoutDigests(manifest);
    await this.#ports.breathe();
    const digest = contentDigest(manifest);
    await this.#ports.breathe();
    // With the content: two names of one file that was written in between are not the same checkpoint.
    const layout = createHash('sha256').update(places).update(digest).digest('hex');
    this.#forgetAborted();
    this.#manifests.set(layout, { manifest, lasting });
    this.#merged.add(layout);
    return {
      layout,
      digest,
      tensors: manifest.names.length,
      bytes: manifest.bytes.reduce((sum, bytes) => sum + bytes, 0),
      manifest: encodeManifest(manifest),
      segments: manifest.segments.map(({ path, host, rank }) => ({ path, host, rank })),
    };
  }

  /** Registrations that ended while this merged for them: one runs at a time, so that those before this one have ended. */
  #forgetAborted(): void {
    for (const layout of this.#merged) if (this.#recall(layout) === null) this.#release(layout);
    this.#merged.clear();
  }

  #plan({ layout, ranks, sources, copies, lost, mirrorName, ...limits }: MessageOf<'plan'>): Planned {
    const { manifest: known, lasting } = this.#known(layout);
    const registered = withLost(known, lost);
    const expected = this.#expectedOf(known);
    const { memoryFraction: fraction, bucketBytes, fused } = limits;
    const { slices, units } = this.#partsOf(lasting, registered, fused);
    const reception = planReception({
      manifest: registered,
      slices,
      units,
      ranks,
      sources,
      copies,
      mirrorName,
    });
    if (reception === null) {
      const input = { layout: lasting, manifest: registered, ranks, fraction, bucketBytes, fused };
      const plan = this.#plans.plan(input);
      return { plan, expected, segments: packPaths(known), manifest: null, reception };
    }
    const { manifest, mirrors } = reception;
    // Each update has mirrors of its own, and so a plan of its own: caching it is no use.
    const arriving = new Set(mirrors.map(({ path }) => path));
    const plan = planUpdate({ manifest, ranks, fraction, bucketBytes, fused, arriving });
    const served = [...servedBy(registered, slices, copies, sources)];
    const hostOf = new Map(sources.map(({ rank, host }) => [rank, host]));
    return {
      plan,
      expected,
      segments: packPaths(manifest),
      manifest: encodeManifest(manifest),
      reception: {
        sliceBytes: Float64Array.from(slices.slices, ({ bytes }) => bytes),
        mirrors: [...mirrors],
        served: served.map(([rank, list]) => ({ rank, host: hostOf.get(rank)!, slices: list })),
      },
    };
  }

  async #planParts(message: MessageOf<'plan-parts'>): Promise<PartsPlanned> {
    const { manifest: known, lasting: layout } = this.#known(message.layout);
    const manifest = withLost(known, message.lost);
    const { units } = this.#partsOf(layout, manifest, message.fused);
    const answer = await this.#partsPlanner.plan(message, { manifest, layout, units });
    if (answer.outcome !== 'parts') return answer;
    const rest = {
      expected: this.#expectedOf(known),
      segments: packPaths(known),
      manifest: null,
      reception: null,
    };
    return { outcome: 'parts', planned: answer.plans.map((plan) => ({ plan, ...rest })) };
  }

  #partsOf(layout: string, manifest: Manifest, fused: readonly FusedModules[]) {
    const key = JSON.stringify([layout, fused]);
    if (this.#parts?.key !== key) {
      this.#parts = { key, slices: cutSlices(manifest), units: fusedUnits(manifest, fused) };
    }
    return this.#parts;
  }

  #expectedOf(manifest: Manifest): string {
    const expected = this.#expected.get(manifest) ?? arrivalDigest(manifest.digests);
    this.#expected.set(manifest, expected);
    return expected;
  }

  async #verify({ layout, instance, reports }: MessageOf<'verify'>): Promise<{ lacking: number[] }> {
    return this.#arrivals.verify(this.#known(layout).manifest, { layout, instance, reports });
  }

  #known(layout: string) {
    const known = this.#manifests.get(layout);
    if (known !== undefined) return known;
    const encoded = this.#recall(layout);
    if (encoded === null) throw new UsageError(`no registered checkpoint has the layout ${layout}`);
    const manifest = decodeManifest(encoded);
    const recalled = { manifest, lasting: layoutDigests(manifest).lasting };
    this.#manifests.set(layout, recalled);
    return recalled;
  }

  /** Its plans stay for the next version of its publisher, which is registered by now. */
  #release(layout: string): void {
    const lasting = this.#manifests.get(layout)?.lasting;
    this.#manifests.delete(layout);
    if (lasting === undefined) return;
    if ([...this.#manifests.values()].some((other) => other.lasting === lasting)) return;
    this.#plans.forget(lasting);
    this.#partsPlanner.forget(lasting);
  }
}
