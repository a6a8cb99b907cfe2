import { strict as assert } from 'node:assert';
import type { Manifest } from '../../checkpoint/manifest.ts';
import { rankName } from '../../checkpoint/rank-name.ts';
import type { SegmentStore } from '../../checkpoint/segment-store.ts';
import {
  AbortedError,
  asFailure,
  describe,
  PeerLostError,
  VerificationError,
  type WeightcastError,
} from '../../errors.ts';
import type { Fabric, FabricPeer } from '../../native-bridge/fabric.ts';
import { Pieces } from '../../plan/pieces.ts';
import { bucketTensors, type Plan } from '../../plan/plan.ts';
import { deadlines, growing } from '../protocol/deadlines.ts';
import type { FabricSource, NextReads, ReceptionRequest } from '../protocol/join-values.ts';
import type { Received } from '../protocol/update-values.ts';
import type { Leases } from '../rank/leases.ts';

/** The outcome of earlier reads. */
export interface ReadReport {
  readonly arrived: number[];
  readonly failed: { readonly piece: number; readonly source: number; readonly reason: string }[];
}

/** The swarm actor, as one receiver calls it. */
export interface SwarmClient {
  join(pieces: Uint32Array): Promise<void>;
  /** Reports earlier reads, and resolves with the next ones. */
  next(report: ReadReport): Promise<NextReads>;
  leave(): void;
}

export interface ReceiverOptions {
  readonly order: ReceptionRequest;
  readonly rank: number;
  readonly plan: Plan;
  /** The manifest of the plan; its segments for received slices are mirrors. */
  readonly manifest: Manifest;
  readonly segments: SegmentStore;
  readonly leases: Leases;
  /** This cluster's fabric for null, otherwise that of the cluster with this secret. */
  readonly fabric: (secret: string | null) => Fabric;
  readonly swarm: SwarmClient;
  /** A rank is read over TCP though any way was welcome: why. */
  readonly onTcp: (rank: number, why: string) => void;
}

type Way = Pick<Received, 'over' | 'whyNotRdma'>;

interface Mirror {
  readonly slice: number;
  readonly path: string;
}

/**
 * Reads what one rank lacks from other hosts, in one epoch. It creates segments (mirrors) for its slices, exposes them so
 * that other receivers can read from them, reads the pieces that the swarm assigns, and resolves when a bucket is
 * complete.
 */
export class Receiver {
  readonly #options: ReceiverOptions;
  readonly #pieces: Pieces;
  readonly #mirrorOf: ReadonlyMap<number, Mirror>;
  readonly #sources = new Map<number, FabricSource>();
  readonly #peers = new Map<number, Promise<FabricPeer>>();
  readonly #abort = new AbortController();
  /** Piece to the buckets that need it. */
  readonly #bucketsOf: ReadonlyMap<number, readonly number[]>;
  readonly #missingOf = new Map<number, number>();
  readonly #waiting = new Map<number, { resolve(): void; reject(error: WeightcastError): void }>();
  readonly #reading = new Set<Promise<void>>();
  readonly #spans: number[] = [];
  readonly #arrivedPieces = new Set<number>();
  readonly totalBytes: number;
  #report: ReadReport = { arrived: [], failed: [] };
  #failure: WeightcastError | null = null;
  #questions = 0;
  #run: Promise<void> = Promise.resolve();
  /** What was read, by source rank and way. */
  readonly #received = new Map<string, Received>();

  private constructor(options: ReceiverOptions) {
    const { order, plan, manifest } = options;
    this.#options = options;
    this.#pieces = new Pieces([...order.sliceBytes]);
    this.#mirrorOf = new Map(order.mirrors.map((mirror) => [mirror.slice, mirror]));
    this.#bucketsOf = piecesOfBuckets(plan, manifest, this.#mirrorOf.values(), this.#pieces);
    this.totalBytes = this.wanted.reduce((sum, piece) => sum + this.#pieces.at(piece).bytes, 0);
    for (const buckets of this.#bucketsOf.values()) {
      for (const bucket of buckets) this.#missingOf.set(bucket, (this.#missingOf.get(bucket) ?? 0) + 1);
    }
  }

  /** Creates the mirrors and exposes them. Rejects with `NativeError` when host memory is short; then none is left. */
  static async open(options: ReceiverOptions): Promise<Receiver> {
    const { mirrors } = options.order;
    const receiver = new Receiver(options);
    try {
      await options.segments.create(mirrors);
      await options.leases.expose(mirrors.map(({ path }) => path));
    } catch (error) {
      await options.leases.release(mirrors.map(({ path }) => path));
      throw error;
    }
    return receiver;
  }

  /** This rank as a source for other receivers. */
  async source(): Promise<FabricSource> {
    const { order, rank, leases } = this.#options;
    const { address, exposed } = await leases.expose(order.mirrors.map(({ path }) => path));
    const tokenOf = new Map(exposed.map(({ path, token }) => [path, token]));
    const slices = order.mirrors.map(({ slice, path }) => ({ slice, token: tokenOf.get(path)!, offset: 0 }));
    return { rank, address, secret: null, slices };
  }

  /** The pieces this rank lacks, in the order in which its buckets need them. */
  get wanted(): Uint32Array {
    return Uint32Array.from(this.#bucketsOf.keys());
  }

  get receivedBytes(): number {
    return this.received.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  get received(): Received[] {
    return [...this.#received.values()];
  }

  /** Three numbers a piece: its number, start and end, in milliseconds of the host's monotonic clock. */
  get spans(): Float64Array {
    return Float64Array.from(this.#spans);
  }

  /** Starts reading. {@link arrival} and {@link complete} reject with what goes wrong. */
  start(): void {
    const { swarm } = this.#options;
    this.#run = this.#readAll(swarm)
      .catch((thrown) => this.#fail(asFailure(thrown)))
      .finally(() => swarm.leave());
  }

  /** Resolves when all pieces of a bucket have arrived; at once for a bucket that needs none. */
  arrival(bucket: number): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    if ((this.#missingOf.get(bucket) ?? 0) === 0) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiting.set(bucket, { resolve, reject }));
  }

  /**
   * Resolves when everything has arrived and, if `verify`, matches its digests. Rejects with a `VerificationError` that
   * names a tensor, or with the error of the reads.
   */
  async complete(verify: boolean): Promise<void> {
    await this.#run;
    if (this.#failure !== null) throw this.#failure;
    const { manifest, segments } = this.#options;
    if (!verify) return;
    const bad = await segments.check(manifest, new Set([...this.#mirrorOf.values()].map(({ path }) => path)));
    if (bad !== null)
      throw new VerificationError(`tensor ${bad} arrived with other bytes than its digest says`);
  }

  /** Ends all reads and removes the mirrors. Never rejects. */
  async discard(reason: string): Promise<void> {
    this.#fail(new AbortedError(reason));
    await this.close();
    await this.#options.leases.release([...this.#mirrorOf.values()].map(({ path }) => path));
  }

  /** Disconnects from the peers; the mirrors stay. Never rejects. */
  async close(): Promise<void> {
    this.#abort.abort(this.#failure ?? new AbortedError('the update is over'));
    await Promise.allSettled([this.#run, ...this.#reading]);
    for (const peer of await Promise.allSettled(this.#peers.values())) {
      if (peer.status === 'fulfilled') peer.value.close();
    }
    this.#peers.clear();
  }

  /**
   * Asks again whenever a read ends, and has a question open all the while: a read from a source that hangs does not end, and
   * the swarm has something else to read instead when it knows.
   */
  async #readAll(swarm: SwarmClient): Promise<void> {
    await swarm.join(this.wanted);
    let isDone = false;
    while (this.#failure === null && !isDone) {
      const goOn = [...this.#reading].map((read) => read.then(() => false));
      isDone = await Promise.race([this.#ask(swarm), ...goOn]);
    }
  }

  /** Begins what the swarm answers. Resolves with whether everything has arrived. */
  async #ask(swarm: SwarmClient): Promise<boolean> {
    this.#questions += 1;
    const question = this.#questions;
    const report = this.#report;
    this.#report = { arrived: [], failed: [] };
    try {
      const { reads, sources, isDone } = await swarm.next(report);
      for (const source of sources) this.#learn(source);
      for (const { piece, source } of reads) this.#begin(piece, source);
      return isDone;
    } catch (error) {
      // The swarm answers only the last question.
      if (question < this.#questions) return false;
      throw error;
    }
  }

  #learn(source: FabricSource): void {
    const known = this.#sources.get(source.rank);
    this.#sources.set(source.rank, source);
    // The same address: the source has more slices, or fewer. Another one: the rank has restarted.
    if (known !== undefined && Buffer.compare(known.address, source.address) !== 0) this.#drop(source.rank);
  }

  #drop(source: number): void {
    const peer = this.#peers.get(source);
    this.#peers.delete(source);
    peer?.then((connected) => connected.close()).catch(() => {});
  }

  #begin(piece: number, source: number): void {
    const read = this.#read(piece, source)
      .then(
        (way) => this.#arrived(piece, source, way),
        (error) => {
          this.#report.failed.push({ piece, source, reason: describe(error) });
        },
      )
      .finally(() => this.#reading.delete(read));
    this.#reading.add(read);
  }

  /** Resolves with how it came. */
  async #read(piece: number, sourceRank: number): Promise<Way> {
    const source = this.#sources.get(sourceRank);
    const { segment: slice, offset, bytes } = this.#pieces.at(piece);
    const held = source?.slices.find((entry) => entry.slice === slice);
    const mirror = this.#mirrorOf.get(slice);
    assert(held !== undefined && mirror !== undefined, `rank ${sourceRank} has no piece ${piece}`);
    const peer = this.#peer(source!);
    try {
      const { kind, whyNotRdma } = await peer;
      const { startedAt, endedAt } = await (await peer).read(
        held.token,
        Float64Array.of(held.offset + offset, offset, bytes),
        this.#options.segments.attach(mirror.path),
        { timeoutMilliseconds: growing(deadlines.read, bytes, 'network'), signal: this.#abort.signal },
      );
      this.#spans.push(piece, startedAt, endedAt);
      return { over: kind, whyNotRdma };
    } catch (error) {
      // The next read connects again.
      if (error instanceof PeerLostError && this.#peers.get(sourceRank) === peer) this.#drop(sourceRank);
      throw error;
    }
  }

  #peer({ rank, address, secret }: FabricSource): Promise<FabricPeer> {
    let peer = this.#peers.get(rank);
    if (peer === undefined) {
      const { signal } = this.#abort;
      const options = { name: rankName(rank), timeoutMilliseconds: deadlines.connect, signal };
      const connecting = this.#options.fabric(secret).connect(address, options);
      this.#peers.set(rank, connecting);
      connecting.then(
        ({ whyNotRdma }) => whyNotRdma !== null && this.#options.onTcp(rank, whyNotRdma),
        () => {
          if (this.#peers.get(rank) === connecting) this.#peers.delete(rank);
        },
      );
      peer = connecting;
    }
    return peer;
  }

  #arrived(piece: number, source: number, way: Way): void {
    this.#report.arrived.push(piece);
    // The swarm may have assigned the piece again while its first read was still running.
    if (this.#arrivedPieces.has(piece)) return;
    this.#arrivedPieces.add(piece);
    const key = `${source} ${way.over}`;
    const before = this.#received.get(key)?.bytes ?? 0;
    this.#received.set(key, { from: source, bytes: before + this.#pieces.at(piece).bytes, ...way });
    for (const bucket of this.#bucketsOf.get(piece) ?? []) {
      const missing = this.#missingOf.get(bucket)! - 1;
      this.#missingOf.set(bucket, missing);
      if (missing > 0) continue;
      this.#waiting.get(bucket)?.resolve();
      this.#waiting.delete(bucket);
    }
  }

  #fail(error: WeightcastError): void {
    this.#failure ??= error;
    this.#abort.abort(this.#failure);
    for (const { reject } of this.#waiting.values()) reject(this.#failure);
    this.#waiting.clear();
  }
}

/** Piece to the buckets that have bytes of it, in the plan's order. */
function piecesOfBuckets(
  plan: Plan,
  manifest: Manifest,
  mirrors: Iterable<Mirror>,
  pieces: Pieces,
): ReadonlyMap<number, readonly number[]> {
  const sliceOfPath = new Map([...mirrors].map(({ slice, path }) => [path, slice]));
  const bucketsOf = new Map<number, number[]>();
  for (const bucket of plan.owners.keys()) {
    for (const row of bucketTensors(plan, bucket).rows) {
      const slice = sliceOfPath.get(manifest.segments[manifest.segmentOf[row]!]!.path);
      if (slice === undefined) continue;
      const { first, end } = pieces.covering(slice, manifest.offsets[row]!, manifest.bytes[row]!);
      for (let piece = first; piece < end; piece += 1) {
        const buckets = bucketsOf.get(piece) ?? [];
        if (buckets.at(-1) !== bucket) buckets.push(bucket);
        bucketsOf.set(piece, buckets);
      }
    }
  }
  return bucketsOf;
}
