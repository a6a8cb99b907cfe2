import { interruptible } from '../src/cli/interrupt.ts';
import type { InstanceOptions, Progress, UpdateReport } from '../src/index.ts';
import { type Fleet, withFleet } from './fleet.ts';
import { HostNetwork } from './host-network.ts';
import type { LoadReport } from './load-generator.ts';
import { announce, requestsAt, seconds, stopRequests, verifyInstances } from './scenario.ts';

export interface StormOptions {
  /** Instances of one rank that join at once, each on its own host. */
  readonly joiners: number;
  readonly bytes: number;
  /** Rate of each host's link in each direction, as in tc: `200mbit`. Null: all hosts share this machine's network. */
  readonly link: string | null;
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
}

export interface StormFigures {
  readonly version: string;
  readonly bytes: number;
  readonly tensors: number;
  /** From the request until the last joiner holds the checkpoint; rank processes run already. */
  readonly stormSeconds: number;
  /** By joiner. */
  readonly joinSeconds: readonly number[];
  /** What all joiners received, together. */
  readonly receivedBytes: number;
  /** The part of it that came from the source; the rest came from other joiners. */
  readonly receivedFromSource: number;
  readonly requests: LoadReport;
}

const source = 'source';

/**
 * One instance serves and answers requests; others join at once, and then all weights of all instances are verified. Rank
 * processes and engines are started before the measurement begins.
 */
export async function storm(options: StormOptions): Promise<StormFigures> {
  const { joiners, bytes, link, signal, onProgress } = options;
  const names = Array.from({ length: joiners }, (_, number) => `joiner-${number + 1}`);
  const network = link === null ? null : new HostNetwork(joiners + 1);
  try {
    const listen = network === null ? {} : { listen: `tcp://${network.connectHere()}:*` };
    const fleetOptions = {
      name: 'join-storm',
      bytes,
      signal,
      instances: { [source]: [0] },
      hosts: hostsOf([source, ...names], network),
      ...listen,
      ...(onProgress !== undefined && { onProgress }),
    };
    return await withFleet(fleetOptions, async (fleet) => {
      const model = await fleet.makeModel(2);
      const { tensors } = await interruptible(fleet.cluster.register('weights', model), signal);
      await interruptible(fleet.cluster.update('weights'), signal);
      const instances = await interruptible(startJoiners(fleet, names), signal);
      announce(`${joiners === 1 ? 'one instance joins' : `${joiners} instances join at once`}`);
      for (let host = 0; link !== null && host <= joiners; host += 1) network?.limit(host, link);
      const load = requestsAt(fleet, [source]);
      const joined = await interruptible(joinAtOnce(fleet, instances), signal);
      const requests = await stopRequests(load);
      await verifyInstances(fleet, [source, ...names], model, signal);
      return figuresOf(joined, tensors, requests);
    });
  } finally {
    network?.close();
  }
}

function hostsOf(names: readonly string[], network: HostNetwork | null) {
  const hostOf = (host: number) =>
    network === null
      ? { launcher: [] }
      : { launcher: network.launcher(host), fabricAddresses: [network.address(host)] };
  return Object.fromEntries(names.map((name, host) => [name, hostOf(host)]));
}

async function startJoiners(fleet: Fleet, names: readonly string[]): Promise<InstanceOptions[]> {
  const instances = await Promise.all(names.map((name, number) => fleet.startEngine(name, [number + 1])));
  await Promise.all(instances.map((instance) => fleet.cluster.addInstance(instance)));
  return instances;
}

interface Joined {
  readonly report: UpdateReport;
  readonly milliseconds: number;
}

async function joinAtOnce({ cluster }: Fleet, instances: readonly InstanceOptions[]): Promise<Joined[]> {
  const startedAt = performance.now();
  return Promise.all(
    instances.map(async ({ name }) => {
      const report = await cluster.update('weights', { instances: [name] });
      return { report, milliseconds: performance.now() - startedAt };
    }),
  );
}

function figuresOf(joined: readonly Joined[], tensors: number, requests: LoadReport): StormFigures {
  const { checkpoint, digest, bytes } = joined[0]!.report;
  const received = joined.flatMap(({ report }) => report.received);
  const sum = (parts: readonly { readonly bytes: number }[]) =>
    parts.reduce((total, part) => total + part.bytes, 0);
  return {
    version: `${checkpoint}@${digest}`,
    bytes,
    tensors,
    stormSeconds: seconds(Math.max(...joined.map(({ milliseconds }) => milliseconds))),
    joinSeconds: joined.map(({ milliseconds }) => seconds(milliseconds)),
    receivedBytes: sum(received),
    receivedFromSource: sum(received.filter(({ from }) => from === 0)),
    requests,
  };
}
