import * as z from 'zod';
import { instance, worker } from '../actors/protocol/instance.ts';
import { instanceStatus } from '../actors/protocol/status-values.ts';
import { linkKinds } from '../engines/engine-client.ts';
import { UsageError } from '../errors.ts';
import { type DeviceOptions, deviceOptions } from './devices.ts';
import { environment } from './join-document.ts';

/** What a parent process passes to its children, as one line of JSON on their standard input. */

const keyPair = z.object({ publicKey: z.string(), secretKey: z.string() });
const publicKey = z.object({ publicKey: z.string() });

/** A host other than the one that the cluster is started on. It has either `launcher` or `joins`. */
export interface HostOptions {
  /**
   * The words before the command that starts the host's agent, such as `['ssh', 'node-2']` or `['ip', 'netns', 'exec', 'b']`.
   * The launcher must pass standard input on, and weightcast and Node.js must have the same paths there as here. Empty: the
   * host is this machine under another name, and has no agent.
   */
  readonly launcher?: readonly string[];
  /** Something else starts `weightcast agent` there, with the host's join file. */
  readonly joins?: true;
  /** Where to write the join file, for its owner only, as soon as the cluster listens. */
  readonly joinFile?: string;
  /**
   * Variables of the environment of its ranks. Below them count those that the agent was started with, and below these all
   * `WEIGHTCAST_…`, `NCCL_…` and `PS_…` of the process that started the cluster, but for keys and tokens.
   */
  readonly environment?: Readonly<Record<string, string>>;
  /**
   * Addresses, or the host's name, at which ranks of other hosts reach those of this one. Names are resolved where the
   * cluster is started. Default: those of its interfaces.
   */
  readonly fabricAddresses?: readonly string[];
  /**
   * Devices of its ranks. `indices`: of its GPUs, in the order in which ranks come to this host, those that come together
   * by their numbers. Default: those that the cluster's `devices` asks for, or else GPUs if that host has any; of GPUs, the
   * first for the host's first rank.
   */
  readonly devices?: DeviceOptions;
}

export const hostOptions = z
  .strictObject({
    launcher: z.array(z.string().min(1)).readonly().exactOptional(),
    joins: z.literal(true).exactOptional(),
    joinFile: z.string().min(1).exactOptional(),
    environment: environment.exactOptional(),
    fabricAddresses: z.array(z.string()).readonly().exactOptional(),
    devices: deviceOptions.exactOptional(),
  })
  .refine(
    ({ launcher, joins }) => (launcher === undefined) !== (joins === undefined),
    'it has either launcher or joins',
  )
  .refine(
    ({ joins, joinFile }) => joins !== undefined || joinFile === undefined,
    'joinFile is for a host that joins',
  )
  .refine(
    ({ launcher, environment }) => launcher?.length !== 0 || environment === undefined,
    'without words in launcher its ranks have the environment of this process',
  );

const host = z.object({
  /** Ranks of one host share their segments. */
  name: z.string(),
  /** Directory of the cluster's segments in /dev/shm; the last process that uses it removes it. */
  directory: z.string(),
  /** Numeric. */
  fabricAddresses: z.array(z.string()).readonly(),
  /** Default: GPUs if that host has any, otherwise host devices. */
  devices: deviceOptions.exactOptional(),
  /** Native threads of each rank process. */
  threads: z.int().min(1),
});

export const rankConfiguration = z.object({
  rank: z.int().min(0),
  /** Its device. Default: what `host.devices` says. */
  device: worker.shape.device,
  node: z.string(),
  endpoint: z.string(),
  hubNode: z.string(),
  keys: z.object({ hub: publicKey, spoke: keyPair }),
  host,
  /** Its GPU on its host: an index, or a UUID. */
  gpu: z.union([z.int().min(0), z.string()]),
  /** Position of the rank among those of its host, and their number. */
  localRank: z.int().min(0),
  localRanks: z.int().min(1),
  /** Hexadecimal; the ranks of a cluster share it, and give peers that know it access to their segments. */
  fabricSecret: z.string(),
  /** Protocol of the engine worker on this rank's device. */
  link: z.enum(linkKinds),
  startTimeoutMilliseconds: z.int().positive(),
  stopTimeoutMilliseconds: z.int().positive(),
  orphanTimeoutMilliseconds: z.int().positive(),
  /** Whether the process that has started it is the supervisor's or that of its host's agent. */
  parent: z.enum(['supervisor', 'agent']),
});
export type RankConfiguration = z.infer<typeof rankConfiguration>;

/** Of a host's segments, `own` being that of the host on which the cluster was started. */
export function directoryOf(own: string, host: string): string {
  return `${own}-${host}`;
}

/** What the supervisor tells an agent of a rank; the rest the agent has itself. */
export const rankOrder = rankConfiguration.omit({ endpoint: true, keys: true, parent: true });
export type RankOrder = z.infer<typeof rankOrder>;

export const supervisorConfiguration = z.object({
  endpoint: z.string(),
  node: z.string(),
  /** How many supervisors of the cluster have died before. */
  incarnation: z.int().min(0),
  /** `others`: public keys of other hosts. */
  keys: z.object({ hub: keyPair, spoke: keyPair, others: z.array(z.string()) }),
  /** Address at which ranks of other hosts reach the supervisor. */
  remoteEndpoint: z.string().exactOptional(),
  instances: z.array(instance),
  spareCheckpoints: z.int().min(0),
  host,
  /** Other hosts by name. */
  hosts: z.record(z.string(), hostOptions),
  fabricSecret: z.string(),
  /** Node of the process that started the cluster. It may be busy for any time; its end ends standard input. */
  ownerNode: z.string(),
  /** How long a rank may take from its launch until it owns its device. */
  startTimeoutMilliseconds: z.int().positive(),
  /** How long all that ends with the cluster may take; processes/stop-times.ts divides it. */
  stopTimeoutMilliseconds: z.int().positive(),
  /** How long a rank without a supervisor waits for another one. */
  orphanTimeoutMilliseconds: z.int().positive(),
});
export type SupervisorConfiguration = z.infer<typeof supervisorConfiguration>;

/** What the supervisor's process tells its parent, before it ends or all the time. */
export const supervisorReport = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('failed'), error: z.object({ code: z.string(), message: z.string() }) }),
  /** Where it listens for ranks of other hosts: the next supervisor has to be there too. */
  z.object({ kind: z.literal('listening'), remoteEndpoint: z.string() }),
  /** A host with a launcher needs an agent that connects to `endpoint`, in place of the last one if that is lost. */
  z.object({ kind: z.literal('agent'), host: z.string(), endpoint: z.string(), isLost: z.boolean() }),
  /** What has become of an instance. */
  z.object({ kind: z.literal('instance'), instance: instanceStatus, mayStillPause: z.boolean() }),
  /** What did not end by itself. */
  z.object({ kind: z.literal('stopped'), killed: z.array(z.string()) }),
]);
export type SupervisorReport = z.infer<typeof supervisorReport>;

/** What its parent tells the supervisor's process: how the agent of a host, or what should have started it, has ended. */
export const ownerReport = z.object({ kind: z.literal('agent-ended'), host: z.string(), how: z.string() });
export type OwnerReport = z.infer<typeof ownerReport>;

export function parseConfiguration<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new UsageError(`invalid configuration of this process: ${issue?.path.join('.')}: ${issue?.message}`);
}
