import { AbortedError, UsageError } from '../errors.ts';
import { nicsOfGpu, withoutOthers } from '../plan/nic-distance.ts';
import { type Environment, nicsOfRank, selectNics } from '../plan/nic-selection.ts';
import { type VerbsParameters, verbsParametersOf } from '../plan/verbs-parameters.ts';
import {
  addon,
  type Interval,
  type NativeExposure,
  type NativeFabric,
  type NativeFabricPeer,
  type NativeRdmaPort,
} from './addon.ts';
import { asWeightcastError } from './call.ts';
import type { Mapping, ThreadPool } from './memory.ts';
import { listPciGpus, placeOfRdmaDevice, rateOfRdmaPort } from './pci.ts';

/** How bytes come from a peer: mapped memory of the same host, RDMA, or streams over any network. */
export type FabricKind = 'shm' | 'verbs' | 'tcp';

export interface ConnectOptions {
  /** What errors call the peer: `rank 3`. */
  readonly name: string;
  readonly timeoutMilliseconds: number;
  readonly signal?: AbortSignal | undefined;
  /** Forces the way, for tests; otherwise the fastest that this pair of processes has is taken. */
  readonly kind?: FabricKind | undefined;
}

export interface ReadOptions {
  /** Counted from the call, so it covers the reads queued before this one. */
  readonly timeoutMilliseconds: number;
  readonly signal?: AbortSignal | undefined;
  /** `progress[0]` counts up by the bytes that have arrived. */
  readonly progress?: Float64Array | undefined;
}

/**
 * One-sided reads between the host memory of ranks; one a rank process. Who is read from takes no part with its
 * JavaScript: native threads, or the network card alone, serve its memory.
 */
export interface Fabric {
  /** How peers reach this rank: opaque, versioned, of a few hundred bytes, without secrets. Changes with each opening. */
  readonly address: Uint8Array;
  /**
   * Lets peers read a mapping until the exposure is closed. The file must still have its name. Rejects with
   * `NativeError`.
   */
  expose(segment: Mapping): Promise<Exposure>;
  /**
   * Connects to a peer; both sides prove that they know the cluster's secret. Rejects with `PeerLostError` if there is
   * nobody, `NativeError` if it is a stranger, `DeadlineError`, `AbortedError`.
   */
  connect(address: Uint8Array, options: ConnectOptions): Promise<FabricPeer>;
  /** Closes exposures and peers; what is in flight rejects with `AbortedError`. May be called twice. */
  close(): void;
}

/** A mapping that peers may read. */
export interface Exposure {
  /** 16 random bytes by which peers name it; who is not told them cannot read it. */
  readonly token: Uint8Array;
  /** How many peers, still connected, have read it. */
  readonly readers: number;
  /**
   * Ends it. Reads of it that are not complete fail with `NativeError`: once this has resolved the memory may be
   * changed, and no read that succeeds has seen the change. May be called twice.
   */
  close(): Promise<void>;
}

/** A connected peer. Its end, noticed within a second of its process's, fails all reads. */
export interface FabricPeer {
  readonly kind: FabricKind;
  /** In words, why it is TCP and not RDMA; null if it is not TCP, or TCP was asked for. */
  readonly whyNotRdma: string | null;
  /**
   * Reads ranges of the peer's mapping that `token` names: three numbers each, in bytes, offset there, offset in
   * `destination`, and how many. Reads run in the order they were given, overlapping; at most 1,024 at a time.
   *
   * Rejects with `PeerLostError` (naming the peer), `DeadlineError`, `AbortedError`, `OverloadedError`, or `NativeError`
   * if a range lies outside, or the exposure was closed; then no byte of `destination` changes any more. Over verbs the
   * closing of an exposure in the middle of a read loses the peer with it: connect again.
   */
  read(
    token: Uint8Array,
    ranges: Float64Array,
    destination: Mapping,
    options: ReadOptions,
  ): Promise<Interval>;
  /** What is in flight rejects with `AbortedError`. May be called twice. */
  close(): void;
}

export interface FabricOptions {
  /** Of the cluster, at least 16 bytes: who knows it may read what is exposed. */
  readonly secret: Uint8Array;
  /** Copies from peers of the same host; the owner closes it after the fabric. */
  readonly pool: ThreadPool;
  /** Numeric addresses to listen at, link-local ones with their interface (`fe80::1%eth0`); all by default. */
  readonly listenAddresses?: readonly string[];
  /** Any by default. */
  readonly port?: number;
  /** Numeric addresses by which peers find this host; those listened at, or of its interfaces, by default. */
  readonly advertisedAddresses?: readonly string[];
  /** Threads that move bytes over TCP. */
  readonly threads?: number;
  /** TCP connections to one peer that carry bytes. */
  readonly streams?: number;
  /** RDMA ports to open, as plan/nic-selection.ts chooses them; none for no RDMA. */
  readonly rdmaPorts?: readonly { readonly device: string; readonly port: number }[];
  /** By default the best RoCE v2 GID of each port is taken, and of the rest what native/fabric/verbs/verbs_device.h says. */
  readonly verbs?: Partial<VerbsParameters>;
}

/** A port of an RDMA device of this host. */
export type HostRdmaPort = NativeRdmaPort;

/** The RDMA ports that this process may open; where there are none, `why` says so in words. */
export function listRdmaPorts(): { readonly ports: readonly HostRdmaPort[]; readonly why: string } {
  return addon.Fabric.rdmaPorts();
}

/** Of which of its host's devices a rank's RDMA ports are to be near. */
export interface RdmaPosition {
  /** PCI address of its GPU; null if it has none. */
  readonly gpu: string | null;
  /** Its place among the ranks of its host, and their number. */
  readonly localRank: number;
  readonly localRanks: number;
}

/**
 * The RDMA ports of one rank: of those that the environment's variables choose, or of all that look as if they carried
 * weights (plan/nic-distance.ts), the ones that are nearest to its GPU. Without a GPU, and in the order of
 * `PS_P2P_STORE_RDMA_DEVICES`, by which checkpoint-engine assigns them, its share. None on a host that has none. Throws
 * `UsageError`, naming the variable. `root`: of the files of another machine, for tests.
 */
export function rdmaOptionsOf(
  environment: Environment,
  { gpu, localRank, localRanks }: RdmaPosition,
  { ports, why } = listRdmaPorts(),
  root = '',
): Required<Pick<FabricOptions, 'rdmaPorts' | 'verbs'>> {
  try {
    const selection = selectNics(ports, environment);
    const gpus = listPciGpus(root);
    const index = gpus.findIndex(({ address }) => address === gpu);
    if (index < 0 || selection.variable === 'PS_P2P_STORE_RDMA_DEVICES') {
      const rdmaPorts = nicsOfRank(selection, localRank, localRanks);
      return { rdmaPorts, verbs: verbsParametersOf(environment) };
    }
    const placed = selection.ports.map((port) => ({
      ...port,
      place: placeOfRdmaDevice(port.device, root),
      rate: rateOfRdmaPort(port.device, port.port, root),
    }));
    const wanted = selection.variable === null ? withoutOthers(placed) : placed;
    const rdmaPorts = nicsOfGpu(
      wanted,
      gpus.map(({ place }) => place),
      index,
    );
    return { rdmaPorts, verbs: verbsParametersOf(environment) };
  } catch (error) {
    // That a library is missing explains more than that no device of a name was found.
    if (why === '' || !(error instanceof UsageError)) throw error;
    throw new UsageError(`${error.message}; ${why}`);
  }
}

/** One connection gets one path through a network of many, and one core of the receiving kernel. */
const defaultStreams = 4;
/** A thread for each stream of a peer, so that they are not slower than bare sockets; idle they cost nothing. */
const defaultThreads = defaultStreams;

/** What native code has chosen. */
const defaultVerbs = verbsParametersOf({});

/** The fabric of this process, over the addon. */
export class HostFabric implements Fabric {
  readonly address: Uint8Array;
  readonly #native: NativeFabric;
  #lastNumber = 0;

  private constructor(native: NativeFabric) {
    this.#native = native;
    this.address = native.address;
  }

  /**
   * Begins to listen. Throws `NativeError`: an address that is not this host's, a port that is taken, an RDMA port that
   * is not active or has no GID.
   */
  static open(options: FabricOptions): HostFabric {
    try {
      return new HostFabric(
        new addon.Fabric({
          secret: options.secret,
          pool: options.pool.native,
          listenAddresses: options.listenAddresses ?? [],
          port: options.port ?? 0,
          advertisedAddresses: options.advertisedAddresses ?? [],
          threads: options.threads ?? defaultThreads,
          streams: options.streams ?? defaultStreams,
          rdmaPorts: options.rdmaPorts ?? [],
          verbs: { ...defaultVerbs, ...options.verbs },
        }),
      );
    } catch (error) {
      throw asWeightcastError(error);
    }
  }

  async expose(segment: Mapping): Promise<Exposure> {
    try {
      return new HostExposure(await this.#native.expose(segment.native));
    } catch (error) {
      throw asWeightcastError(error);
    }
  }

  async connect(address: Uint8Array, options: ConnectOptions): Promise<FabricPeer> {
    const { name, timeoutMilliseconds, signal, kind } = options;
    this.#lastNumber += 1;
    const number = this.#lastNumber;
    const native = await cancellable(
      signal,
      `connecting to ${name}`,
      () => this.#native.connect({ number, address, name, way: kind ?? 'any', timeoutMilliseconds }),
      () => this.#native.cancelConnect(number),
    );
    return new HostPeer(native);
  }

  close(): void {
    this.#native.close();
  }
}

class HostExposure implements Exposure {
  readonly token: Uint8Array;
  readonly #native: NativeExposure;

  constructor(native: NativeExposure) {
    this.#native = native;
    this.token = native.token;
  }

  get readers(): number {
    return this.#native.readers;
  }

  async close(): Promise<void> {
    try {
      await this.#native.close();
    } catch (error) {
      throw asWeightcastError(error);
    }
  }
}

class HostPeer implements FabricPeer {
  readonly kind: FabricKind;
  readonly whyNotRdma: string | null;
  readonly #native: NativeFabricPeer;
  #lastNumber = 0;

  constructor(native: NativeFabricPeer) {
    this.#native = native;
    this.kind = native.kind;
    this.whyNotRdma = native.whyNotRdma;
  }

  read(
    token: Uint8Array,
    ranges: Float64Array,
    destination: Mapping,
    options: ReadOptions,
  ): Promise<Interval> {
    const { timeoutMilliseconds, signal, progress = null } = options;
    this.#lastNumber += 1;
    const number = this.#lastNumber;
    return cancellable(
      signal,
      'a read',
      () =>
        this.#native.read({
          number,
          token,
          ranges,
          destination: destination.native,
          progress,
          timeoutMilliseconds,
        }),
      () => this.#native.cancel(number),
    );
  }

  close(): void {
    this.#native.close();
  }
}

/** Native work that a signal cancels. It settles when the native side has let go, not when the signal fires. */
async function cancellable<T>(
  signal: AbortSignal | undefined,
  what: string,
  start: () => Promise<T>,
  cancel: () => void,
): Promise<T> {
  if (signal?.aborted) throw new AbortedError(`${what} was cancelled before it began`);
  signal?.addEventListener('abort', cancel, { once: true });
  try {
    return await start();
  } catch (error) {
    throw asWeightcastError(error);
  } finally {
    signal?.removeEventListener('abort', cancel);
  }
}
