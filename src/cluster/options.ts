import { hostname } from 'node:os';
import * as z from 'zod';
import { ranksOf } from '../actors/protocol/instance.ts';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import type { Progress } from '../actors/protocol/status-values.ts';
import { escapeControls } from '../checkpoint/printable.ts';
import { workerUsers } from '../engines/worker-link/worker-users.ts';
import { UsageError } from '../errors.ts';
import { checkFaults } from '../faults/faults.ts';
import { type HostOptions, hostOptions } from '../processes/configuration.ts';
import { checkDevices, type DeviceOptions } from '../processes/devices.ts';
import { defaultLimits, limitsOf } from '../transport/limits.ts';
import { isAddress } from './addresses.ts';
import { checkForm, wait } from './inputs.ts';
import type { SupervisorEvent } from './supervisor-fate.ts';
import { checkInstance, Workers } from './workers.ts';

export interface ClusterOptions {
  /** Number of rank processes to start, one per device; 0 without instances, which may join later. */
  readonly ranks: number;
  /** The engine instances. Every rank belongs to exactly one of them, and is on the device of one of its workers. */
  readonly instances: readonly InstanceOptions[];
  /** Devices of the ranks. Default: GPUs if there are any, otherwise host devices. */
  readonly devices?: DeviceOptions;
  /**
   * Other hosts, by the name that instances refer to. Each has an agent, which starts its ranks: it is started by the host's
   * `launcher`, or joins by itself.
   */
  readonly hosts?: Readonly<Record<string, HostOptions>>;
  /**
   * Address at which ranks on other hosts reach the supervisor: `tcp://10.0.0.1:7000`, `tcp://[fd00::1]:7000` or
   * `tcp://node-1:7000`; port `*` for any free one.
   */
  readonly listen?: string;
  /**
   * Addresses, or a host's name, at which ranks of other hosts reach those of this one. Default: those of its interfaces.
   */
  readonly fabricAddresses?: readonly string[];
  /**
   * How many replaced or unregistered checkpoints' host memory to keep, pinned, for later checkpoints of the same sizes:
   * registering those costs only the copy. Default: 2. With 0 it is released at once.
   */
  readonly spareCheckpoints?: number;
  /** Native threads of each rank process. Default: the cores of this host, divided by `ranks`. */
  readonly threads?: number;
  /**
   * How long a rank may take from its start until it owns its device. One that takes longer is killed and started again.
   * Default: 60,000.
   */
  readonly startTimeoutMilliseconds?: number;
  /** How long `Cluster.stop` may take; what has not ended by then is killed. Default: 60,000. */
  readonly stopTimeoutMilliseconds?: number;
  /**
   * How long ranks whose supervisor's process has died keep what they hold for another one, which this process starts, and
   * those of a host that is cut off for the network. Then they end. Default: 30,000.
   */
  readonly orphanTimeoutMilliseconds?: number;
  /** Called when the supervisor's process has died, and when another one has taken its place. */
  readonly onSupervisor?: (event: SupervisorEvent) => void;
  /** Called several times a second while checkpoints load and updates run. */
  readonly onProgress?: (progress: Progress) => void;
}

const mostSpareCheckpoints = 16;
/** Of one native pool. */
const mostThreads = 256;

/** What can be said of options one by one; of instances it is said with their names. */
const form = z.strictObject({
  ranks: z.int().min(0),
  instances: z.array(z.unknown()),
  devices: z.unknown().optional(),
  hosts: z.record(z.string(), hostOptions).optional(),
  listen: z
    .string()
    .regex(/^tcp:\/\/[^\s/]+:(\d{1,5}|\*)$/, 'it must be tcp://address:port, or port * for any free one')
    .optional(),
  fabricAddresses: z.array(z.string()).optional(),
  threads: z.int().min(1).max(mostThreads).optional(),
  spareCheckpoints: z.int().min(0).max(mostSpareCheckpoints).optional(),
  startTimeoutMilliseconds: wait.int().optional(),
  stopTimeoutMilliseconds: wait.int().min(1_000).optional(),
  orphanTimeoutMilliseconds: wait.int().min(1_000).optional(),
  onSupervisor: z.custom((value) => typeof value === 'function', 'it must be a function').optional(),
  onProgress: z.custom((value) => typeof value === 'function', 'it must be a function').optional(),
});

/** Throws a UsageError that names the option. Nothing is started before. */
export function checkOptions(options: ClusterOptions): void {
  checkForm('Cluster.start', form, options);
  const { ranks, instances, devices, hosts = {}, fabricAddresses, listen } = options;
  if (ranks === 0 && instances.length > 0) throw new UsageError('ranks is 0; the instances have ranks');
  if (devices !== undefined) checkDevices(devices, ranks);
  if (ranks >= defaultLimits.peers)
    throw new UsageError(`ranks is ${ranks}; a cluster has at most ${defaultLimits.peers - 1}`);
  for (const [name, host] of Object.entries(hosts)) checkHost(name, host, listen !== undefined);
  checkAddresses('fabricAddresses', fabricAddresses);
  for (const instance of instances) checkInstance(instance, hosts);
  checkRanks(ranks, instances);
  // What its processes would end of.
  limitsOf(process.env);
  workerUsers(process.env);
  checkFaults(process.env);
}

/** Its name is part of that of a directory, and of no other host's. */
function checkHost(name: string, { fabricAddresses, joins }: HostOptions, listens: boolean): void {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(name))
    throw new UsageError(
      `hosts: a host's name has letters, digits, dots, dashes and underscores, not "${escapeControls(name)}"`,
    );
  if (name === hostname())
    throw new UsageError(
      `hosts: ${name} is the host that the cluster starts on; instances without a host are there`,
    );
  if (joins && !listens)
    throw new UsageError(`hosts.${name}.joins needs the option listen: where its agent connects`);
  checkAddresses(`hosts.${name}.fabricAddresses`, fabricAddresses);
}

function checkAddresses(option: string, addresses: readonly string[] = []): void {
  const wrong = addresses.find((address) => !isAddress(address));
  if (wrong !== undefined)
    throw new UsageError(
      `${option}: "${escapeControls(wrong)}" is neither an address, such as 10.0.0.1, nor the name of a host`,
    );
}

function checkRanks(ranks: number, instances: readonly InstanceOptions[]): void {
  const names = instances.map(({ name }) => name);
  const repeated = names.find((name, index) => names.indexOf(name) < index);
  if (repeated !== undefined) throw new UsageError(`two instances have the name ${repeated}`);
  const taken = new Set<number>();
  for (const instance of new Workers().take(instances))
    for (const rank of ranksOf(instance)) {
      if (rank >= ranks)
        throw new UsageError(`instance ${instance.name} has rank ${rank}; ranks are 0 to ${ranks - 1}`);
      taken.add(rank);
    }
  const idle = Array.from({ length: ranks }, (_, rank) => rank).filter((rank) => !taken.has(rank));
  if (idle.length > 0) throw new UsageError(`rank ${idle.join(', ')} belongs to no instance`);
}
