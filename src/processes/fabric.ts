import { UsageError } from '../errors.ts';
import { type Fabric, type FabricKind, HostFabric, rdmaOptionsOf } from '../native-bridge/fabric.ts';
import type { ThreadPool } from '../native-bridge/memory.ts';
import type { RankConfiguration } from './configuration.ts';

const fabricKinds = ['shm', 'verbs', 'tcp'] as const satisfies readonly FabricKind[];

/** The fabric of one rank process, which opens it only when it is needed: one that never is costs nothing. */
export class RankFabric {
  readonly #configuration: RankConfiguration;
  readonly #pool: ThreadPool;
  #fabric: Fabric | null = null;

  constructor(configuration: RankConfiguration, pool: ThreadPool) {
    this.#configuration = configuration;
    this.#pool = pool;
  }

  /** The RDMA ports that this rank uses, `mlx5_0:1`; none too where {@link open} would throw. */
  get nics(): string[] {
    try {
      return this.#rdmaOptions().rdmaPorts.map(({ device, port }) => `${device}:${port}`);
    } catch {
      return [];
    }
  }

  /** Throws `NativeError`, and `UsageError` if the environment chooses NICs that do not fit. */
  open(): Fabric {
    this.#fabric ??= this.#open();
    return this.#fabric;
  }

  close(): void {
    this.#fabric?.close();
  }

  #open(): Fabric {
    const { host, fabricSecret } = this.#configuration;
    const kind = fabricWish(process.env.WEIGHTCAST_FABRIC);
    const fabric = HostFabric.open({
      secret: Buffer.from(fabricSecret, 'hex'),
      pool: this.#pool,
      ...(host.fabricAddresses.length > 0 && { advertisedAddresses: host.fabricAddresses }),
      ...this.#rdmaOptions(),
    });
    if (kind === null) return fabric;
    return {
      address: fabric.address,
      expose: (segment) => fabric.expose(segment),
      connect: (address, options) => fabric.connect(address, { ...options, kind }),
      close: () => fabric.close(),
    };
  }

  #rdmaOptions() {
    const { localRank, localRanks } = this.#configuration;
    return rdmaOptionsOf(process.env, localRank, localRanks);
  }
}

/** What WEIGHTCAST_FABRIC says; null for the fastest that a pair of ranks has. Throws `UsageError`. */
export function fabricWish(value: string | undefined): FabricKind | null {
  const kind = fabricKinds.find((candidate) => candidate === value);
  if (kind !== undefined || value === undefined) return kind ?? null;
  throw new UsageError(
    `WEIGHTCAST_FABRIC must be one of ${fabricKinds.join(', ')}, not ${JSON.stringify(value)}`,
  );
}
