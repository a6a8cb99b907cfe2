import { availableParallelism, hostname } from 'node:os';
import { deadlines } from '../actors/protocol/deadlines.ts';
import type { SharedDirectory } from '../native-bridge/memory.ts';
import type { SupervisorConfiguration } from '../processes/configuration.ts';
import type { KeyPair } from '../transport/curve.ts';
import { nodeName } from '../transport/node-name.ts';
import type { ClusterOptions } from './options.ts';

/** All of the cluster's end: of its jobs, the engines that they paused, and its processes, those that hang killed. */
const defaultStopMilliseconds = 60_000;
/** How long ranks keep what they hold without a supervisor: it takes far less to start another one. */
const defaultOrphanMilliseconds = 30_000;
/** Enough for two models that are trained together, each alternating between two sets of segments. */
const defaultSpareCheckpoints = 2;

/** What a cluster has of its own. */
export type Made = Pick<SupervisorConfiguration, 'ownerNode' | 'keys' | 'fabricSecret'> & {
  readonly id: string;
  readonly directory: SharedDirectory;
  /** Those of other hosts, by name. */
  readonly hostKeys: Readonly<Record<string, KeyPair>>;
};

/** That of the first supervisor, but for the instances. */
export function configurationOf(options: ClusterOptions, made: Made): SupervisorConfiguration {
  const { id, directory, ownerNode, keys, fabricSecret } = made;
  return {
    endpoint: `ipc://@weightcast-${id}`,
    node: nodeName('supervisor'),
    incarnation: 0,
    keys,
    ...(options.listen !== undefined && { remoteEndpoint: options.listen }),
    instances: [],
    spareCheckpoints: options.spareCheckpoints ?? defaultSpareCheckpoints,
    hosts: { ...options.hosts },
    fabricSecret,
    ownerNode,
    startTimeoutMilliseconds: options.startTimeoutMilliseconds ?? deadlines.start,
    stopTimeoutMilliseconds: options.stopTimeoutMilliseconds ?? defaultStopMilliseconds,
    orphanTimeoutMilliseconds: options.orphanTimeoutMilliseconds ?? defaultOrphanMilliseconds,
    host: {
      name: hostname(),
      directory: directory.path,
      fabricAddresses: options.fabricAddresses ?? [],
      ...(options.devices !== undefined && { devices: options.devices }),
      threads:
        options.threads ?? Math.max(1, Math.floor(availableParallelism() / Math.max(1, options.ranks))),
    },
  };
}
