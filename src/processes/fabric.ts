import { UsageError } from '../errors.ts';
import { type Fabric, type FabricKind, HostFabric, rdmaOptionsOf } from '../native-bridge/fabric.ts';
import type { ThreadPool } from '../native-bridge/memory.ts';
import { probeCuda } from '../native-bridge/probe.ts';
import type { RankConfiguration } from './configuration.ts';
import { type DeviceOptions, gpuIndexOf } from './devices.ts';

const fabricKinds = ['shm', 'verbs', 'tcp'] as const satisfies readonly FabricKind[];

/**
 * The fabrics of one rank process: that of its own cluster, and one for each other cluster that it reads from. Each is
 * opened on first use.
 */
export class RankFabric {
  readonly #configuration: RankConfiguration;
  readonly #pool: ThreadPool;
  /** PCI address of the rank's GPU; null without one. */
  readonly #gpu: string | null;
  readonly #fabrics = new Map<string, Fabric>();

  constructor(configuration: RankConfiguration, devices: DeviceOptions, pool: ThreadPool) {
    this.#gpu = devices.kind === 'cuda' ? pciAddressOf(configuration.gpu) : null;
    this.#configuration = configuration;
    this.#pool = pool;
  }

  /** The RDMA ports that this rank uses, such as `mlx5_0:1`; empty where {@link open} would throw. */
  get nics(): string[] {
    try {
      return this.#rdmaOptions().rdmaPorts.map(({ device, port }) => `${device}:${port}`);
    } catch {
      return [];
    }
  }

  /**
   * The fabric of the cluster with this secret; null: this cluster. Throws `NativeError`, and `UsageError` for invalid
   * environment variables.
   */
  open(secret: string | null): Fabric {
    const key = secret ?? this.#configuration.fabricSecret;
    let fabric = this.#fabrics.get(key);
    if (fabric === undefined) {
      fabric = this.#open(key);
      this.#fabrics.set(key, fabric);
    }
    return fabric;
  }

  close(): void {
    for (const fabric of this.#fabrics.values()) fabric.close();
  }

  #open(secret: string): Fabric {
    const { host } = this.#configuration;
    const kind = fabricPreference(process.env.WEIGHTCAST_FABRIC);
    const fabric = HostFabric.open({
      secret: Buffer.from(secret, 'hex'),
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
    return rdmaOptionsOf(process.env, { gpu: this.#gpu, localRank, localRanks });
  }
}

function pciAddressOf(gpu: number | string): string | null {
  return probeCuda().devices[gpuIndexOf(gpu)]?.pciAddress ?? null;
}

/** Parses WEIGHTCAST_FABRIC; null if it is not set: each pair of ranks uses its fastest. Throws `UsageError`. */
export function fabricPreference(value: string | undefined): FabricKind | null {
  const kind = fabricKinds.find((candidate) => candidate === value);
  if (kind !== undefined || value === undefined) return kind ?? null;
  throw new UsageError(
    `WEIGHTCAST_FABRIC must be one of ${fabricKinds.join(', ')}, not ${JSON.stringify(value)}`,
  );
}
