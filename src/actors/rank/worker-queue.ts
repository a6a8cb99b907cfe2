import { cutAt } from '../../checkpoint/cuts.ts';
import { dtypeName, type Manifest, shapeOf } from '../../checkpoint/manifest.ts';
import type { KeptParts, LinkBuffer, LinkTensor, WorkerLink } from '../../engines/worker-link/worker-link.ts';
import type { Interval } from '../../native-bridge/addon.ts';
import { bucketTensors } from '../../plan/plan.ts';
import type { Clock } from '../../ports.ts';
import type { ArrivedDigests, LiveDigests } from '../protocol/update-values.ts';
import type { Announcement } from './announcement.ts';
import type { SlotMap } from './slot-map.ts';
import type { TransferOptions } from './transfer-options.ts';

type QueueOptions = Pick<TransferOptions, 'manifest' | 'announcement' | 'clock'>;

/**
 * Requests to the engine worker of one rank. They wait for the answers to those before them, but for buckets where the
 * link takes several: the worker then finds the next one announced when it is done with the last. A request that fails
 * fails all behind it.
 */
export class WorkerQueue {
  readonly #link: WorkerLink;
  readonly #map: SlotMap;
  readonly #manifest: Manifest;
  readonly #announcement: Announcement | null;
  readonly #clock: Clock;
  #last: Promise<unknown> = Promise.resolve();
  /** Of the exchange in progress. */
  #opening: Promise<void> = Promise.resolve();
  #loads = 0;
  #loadedAt = 0;

  constructor(link: WorkerLink, map: SlotMap, options: QueueOptions) {
    this.#link = link;
    this.#map = map;
    this.#manifest = options.manifest;
    this.#announcement = options.announcement;
    this.#clock = options.clock;
  }

  /** How many buckets the worker was asked to load. */
  get loads(): number {
    return this.#loads;
  }

  /** What the worker says that its model holds, since it has run its post-hook; null if it does not say. */
  get live(): LiveDigests | null {
    const { live } = this.#link;
    return live && { ...live, place: { ...live.place }, names: live.names?.join('\n') ?? null };
  }

  /** What the worker keeps of each tensor, since it has run its post-hook, if it has recorded that. */
  get kept(): KeptParts | null {
    return this.#link.kept;
  }

  /** Whether the worker can say what it received. */
  get reports(): boolean {
    return this.#link.reports;
  }

  get address(): string {
    return this.#link.address;
  }

  /** Throws a `CheckpointError` that names the first tensor which workers of this link cannot take. */
  check(): void {
    this.#link.check(this.#allTensors());
  }

  /** Hands the worker the link buffer. */
  open(buffer: LinkBuffer): Promise<void> {
    this.#opening = this.#ask(() => this.#link.open(buffer));
    return this.#opening;
  }

  /**
   * Has the worker copy a bucket out of its link slot. Workers report what arrived in the order of these calls, which has
   * to be the plan's. The interval starts when the worker has both the request and no earlier one to serve. Null if nothing of
   * the bucket is announced: then it is not asked.
   */
  reload(bucket: number): Promise<Interval | null> {
    const tensors = this.#tensorsOf(bucket);
    if (tensors.length === 0 && this.#announcement !== null) return Promise.resolve(null);
    const load = async () => {
      const askedAt = this.#clock.now();
      this.#loads += 1;
      await this.#link.load(tensors);
      const startedAt = Math.max(askedAt, this.#loadedAt);
      this.#loadedAt = this.#clock.now();
      return { startedAt, endedAt: this.#loadedAt };
    };
    return this.#ask(load, this.#link.takesSeveral ? this.#opening : this.#last);
  }

  /** Has the worker drop the link buffer. */
  release(): Promise<void> {
    return this.#ask(() => this.#link.release());
  }

  /** Has the worker run its post-hook. Null from a worker that cannot compute digests. */
  finish(): Promise<ArrivedDigests | null> {
    return this.#ask(() => this.#link.finish());
  }

  /** Ends the exchange from this side. Never rejects. */
  abort(reason: string): Promise<void> {
    return this.#link.abort(reason);
  }

  /** May be called twice. */
  close(): void {
    this.#link.close();
  }

  #ask<T>(request: () => Promise<T>, after: Promise<unknown> = this.#last): Promise<T> {
    const answer = after.then(request);
    this.#last = answer;
    // The caller handles its own failure.
    answer.catch(() => {});
    return answer;
  }

  *#allTensors(): Iterable<LinkTensor> {
    for (let bucket = 0; bucket < this.#map.buckets; bucket += 1) yield* this.#tensorsOf(bucket);
  }

  #tensorsOf(bucket: number): LinkTensor[] {
    const { plan } = this.#map;
    const { rows, offsets } = bucketTensors(plan, bucket);
    const slotOffset = this.#map.linkSlot(bucket) * plan.slotBytes;
    const tensors: LinkTensor[] = [];
    for (const [index, row] of rows.entries()) {
      if (this.#announcement !== null && this.#announcement.rows[row] === 0) continue;
      const cut = plan.cuts && cutAt(plan.cuts, plan.tensorStarts[bucket]! + index);
      tensors.push({
        name: this.#manifest.names[row]!,
        dtype: dtypeName(this.#manifest, row),
        shape: shapeOf(this.#manifest, row),
        offset: slotOffset + offsets[index]!,
        ...(cut !== null && { part: [cut.dim, cut.start, cut.length] as const }),
      });
    }
    return tensors;
  }
}
