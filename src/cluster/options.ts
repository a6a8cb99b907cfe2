import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import type { Progress } from '../actors/protocol/status-values.ts';
import { firstForeignRank } from '../checkpoint/rank-name.ts';
import { checkEngineOptions } from '../engines/engine-options.ts';
import { UsageError } from '../errors.ts';
import type { HostOptions } from '../processes/configuration.ts';
import { checkDevices, type DeviceOptions } from '../processes/devices.ts';
import { defaultLimits } from '../transport/limits.ts';

export interface ClusterOptions {
  /** Number of rank processes to start, one per device; 0 without instances, which may join later. */
  readonly ranks: number;
  /** The engine instances. Every rank belongs to exactly one of them, and is on the device of one of its workers. */
  readonly instances: readonly InstanceOptions[];
  /** Devices of the ranks. Default: GPUs if there are any, otherwise host devices. */
  readonly devices?: DeviceOptions;
  /** Other hosts, by the name that instances refer to. Their launchers start ranks on them. */
  readonly hosts?: Readonly<Record<string, HostOptions>>;
  /** Address at which ranks on other hosts reach the supervisor: `tcp://10.0.0.1:7000`, or port `*` for any free one. */
  readonly listen?: string;
  /** Numeric addresses at which ranks of other hosts reach those of this one. Default: those of its interfaces. */
  readonly fabricAddresses?: readonly string[];
  /**
   * How many replaced or unregistered checkpoints' host memory to keep, pinned, for later checkpoints of the same sizes:
   * registering those costs only the copy. Default: 2. With 0 it is released at once.
   */
  readonly spareCheckpoints?: number;
  /** Native threads of each rank process. Default: the cores of this host, divided by `ranks`. */
  readonly threads?: number;
  /** Called several times a second while checkpoints load and updates run. */
  readonly onProgress?: (progress: Progress) => void;
}

const mostSpareCheckpoints = 16;
/** Of one native pool. */
const mostThreads = 256;

/** Throws a UsageError that names the option. */
export function checkOptions(options: ClusterOptions): void {
  const { ranks, instances, devices, hosts, spareCheckpoints, threads } = options;
  const isCount =
    Number.isInteger(spareCheckpoints) && spareCheckpoints! >= 0 && spareCheckpoints! <= mostSpareCheckpoints;
  if (spareCheckpoints !== undefined && !isCount) {
    throw new UsageError(
      `spareCheckpoints is ${spareCheckpoints}; it must be a whole number from 0 to ${mostSpareCheckpoints}`,
    );
  }
  const least = instances.length > 0 ? 1 : 0;
  if (!Number.isInteger(ranks) || ranks < least)
    throw new UsageError(`ranks is ${ranks}; it must be a whole number, at least ${least}`);
  if (threads !== undefined && (!Number.isInteger(threads) || threads < 1 || threads > mostThreads))
    throw new UsageError(`threads is ${threads}; it must be a whole number from 1 to ${mostThreads}`);
  if (devices !== undefined) checkDevices(devices, ranks);
  if (ranks >= defaultLimits.peers)
    throw new UsageError(`ranks is ${ranks}; a cluster has at most ${defaultLimits.peers - 1}`);
  const names = instances.map(({ name }) => name);
  const repeated = names.find((name, index) => names.indexOf(name) < index);
  if (repeated !== undefined) throw new UsageError(`two instances have the name ${repeated}`);
  const takenBy = new Map<number, string>();
  for (const instance of instances) {
    checkInstance(instance, hosts);
    for (const rank of instance.ranks) {
      if (rank >= ranks) {
        throw new UsageError(`instance ${instance.name} has rank ${rank}; ranks are 0 to ${ranks - 1}`);
      }
      const other = takenBy.get(rank);
      if (other !== undefined)
        throw new UsageError(`rank ${rank} belongs to both instance ${other} and instance ${instance.name}`);
      takenBy.set(rank, instance.name);
    }
  }
  if (takenBy.size < ranks) {
    const idle = Array.from({ length: ranks }, (_, rank) => rank).filter((rank) => !takenBy.has(rank));
    throw new UsageError(`rank ${idle.join(', ')} belongs to no instance`);
  }
}

/** Throws a UsageError that names the instance and the option. */
export function checkInstance(instance: InstanceOptions, hosts: ClusterOptions['hosts']): void {
  const { name, host, ranks, firstDevice } = instance;
  checkEngineOptions(name, instance);
  if (ranks.length === 0) throw new UsageError(`instance ${name} has no ranks`);
  if (new Set(ranks).size < ranks.length) throw new UsageError(`instance ${name} has a rank twice`);
  for (const rank of ranks) {
    if (!Number.isInteger(rank) || rank < 0 || rank >= firstForeignRank) {
      throw new UsageError(
        `instance ${name} has rank ${rank}; ranks are whole numbers below ${firstForeignRank}`,
      );
    }
  }
  if (firstDevice !== undefined && (!Number.isInteger(firstDevice) || firstDevice < 0))
    throw new UsageError(`instance ${name}: firstDevice is ${firstDevice}; it must be a whole number`);
  if (host !== undefined && hosts?.[host] === undefined) {
    throw new UsageError(`instance ${name} is on host ${host}, which the option hosts does not have`);
  }
}
