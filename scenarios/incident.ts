import { setTimeout as sleep } from 'node:timers/promises';
import { interruptible } from '../src/cli/interrupt.ts';
import { asFailure, CheckpointError, VerificationError } from '../src/errors.ts';
import type { Cluster, ClusterOptions, Progress, UpdateOptions, UpdateReport } from '../src/index.ts';
import { formatBytes } from '../src/units.ts';
import { type Fleet, withFleet } from './fleet.ts';
import { type FleetScene, fleetScenario } from './fleet-scenario.ts';
import { MidUpdate } from './mid-update.ts';
import {
  announce,
  rankPids,
  ranksOfEach,
  requestsAt,
  seconds,
  stopRequests,
  verifyInstances,
} from './scenario.ts';

/** Where an incident happens: instances a and b, each of which serves, and is being updated. */
export interface IncidentScene {
  readonly fleet: Fleet;
  /** Processes of the ranks of an instance, as they were before. */
  pidsOf(instance: string): number[];
}

/** Something that happens in the middle of an update of two instances that serve. */
export interface Incident {
  readonly name: string;
  readonly description: string;
  /** What the cluster starts with beside its instances: hosts and where it listens. */
  readonly cluster?: Pick<ClusterOptions, 'hosts' | 'listen'>;
  readonly update?: Pick<UpdateOptions, 'timeoutMilliseconds' | 'stepTimeoutMilliseconds'>;
  /** Size of the model unless the command says so. */
  readonly size?: string;
  /** Of each instance, unless the command says so. Default: 1. */
  readonly ranks?: number;
  /** What has to become of the update, as `a broken, b updated`; if it is not said, the scenario only says what has. */
  readonly outcome?: string;
  /** Called before the update. */
  prepare?(scene: IncidentScene): void | Promise<void>;
  /** Called when an engine worker has loaded something. */
  strike(scene: IncidentScene): void | Promise<void>;
  /** Called once the update has been answered: ends what does not pass by itself. */
  heal?(scene: IncidentScene): void | Promise<void>;
  /** Whether requests may fail. Default: none may. */
  readonly failsRequests?: boolean;
  /** Further figures of the result. */
  figures?(report: UpdateReport | null): Readonly<Record<string, string | number>>;
}

const instances = ['a', 'b'] as const;
const retryMilliseconds = 100;
const attemptMilliseconds = 30_000;
const recoveryMilliseconds = 120_000;

/** The incident as a command: the update, what became of each instance, and how all came to one version again. */
export function incidentCommand(incident: Incident): Promise<unknown> {
  const defaults = { size: incident.size ?? '256MiB', ranks: String(incident.ranks ?? 1) };
  return fleetScenario(incident.name, incident.description, defaults, (scene) => run(incident, scene));
}

async function run(incident: Incident, { bytes, ranks, reporter, signal }: FleetScene): Promise<object> {
  const [first, second] = ranksOfEach(2, ranks);
  let strike: () => void | Promise<void> = () => {};
  const trigger = new MidUpdate(() => strike());
  const fleetOptions = {
    name: incident.name,
    bytes,
    signal,
    instances: { a: first!, b: second! },
    ...incident.cluster,
    onProgress: (progress: Progress) => {
      trigger.progress(progress);
      reporter.progress(progress);
    },
  };
  return withFleet(fleetOptions, async (fleet) => {
    const { cluster } = fleet;
    const [one, two] = [await fleet.makeModel(2), await fleet.makeModel(3)];
    await interruptible(cluster.register('weights', one), signal);
    await interruptible(cluster.update('weights'), signal);
    await interruptible(cluster.register('next', two), signal);
    const scene = await sceneOf(fleet);
    strike = () => incident.strike(scene);
    await incident.prepare?.(scene);
    const load = requestsAt(fleet, instances);
    reporter.end();
    announce(incident.description);
    trigger.arm();
    const answer = await interruptible(answerOf(cluster, incident), signal);
    const { struckAt } = trigger;
    if (struckAt === null || trigger.failure !== null)
      throw new VerificationError('the update was over too soon; make --size larger', {
        cause: trigger.failure,
      });
    if (incident.outcome !== undefined && answer.words !== incident.outcome)
      throw new VerificationError(`the outcome is ${answer.words}, and not ${incident.outcome}`);
    const answeredSeconds = seconds(performance.now() - struckAt);
    await incident.heal?.(scene);
    await interruptible(recover(cluster, two), signal);
    const recoveredSeconds = seconds(performance.now() - struckAt);
    const requests = await stopRequests(load, incident.failsRequests === true);
    reporter.end();
    await verifyInstances(fleet, instances, two, signal);
    const figures = incident.figures?.(answer.report) ?? {};
    reporter.rows([
      ['size', formatBytes(bytes)],
      ['answered', `${answer.words}, after ${answeredSeconds} s`],
      ['one version', `after ${recoveredSeconds} s`],
      ...Object.entries(figures).map(([name, value]) => [name, String(value)] as const),
      ['verified', 'every worker of both instances holds the checkpoint, bit by bit'],
      ['requests', `${requests.served} served; ${requests.failed} failed`],
    ]);
    return {
      ranks,
      bytes,
      outcome: answer.words,
      answeredSeconds,
      recoveredSeconds,
      ...figures,
      requestsServed: requests.served,
      requestsFailed: requests.failed,
      slowestRequestSeconds: seconds(requests.slowestMilliseconds),
      verified: true,
    };
  });
}

async function sceneOf(fleet: Fleet): Promise<IncidentScene> {
  const status = await fleet.cluster.status();
  return {
    fleet,
    pidsOf: (name) => rankPids(status, name),
  };
}

/** What became of the update, in words. */
async function answerOf(cluster: Cluster, { update = {} }: Incident) {
  try {
    const report = await cluster.update('next', { bucketBytes: 2 ** 20, ...update });
    const words = report.instances.map(({ name, outcome }) => `${name} ${outcome}`).join(', ');
    return { report, words };
  } catch (error) {
    return { report: null, words: asFailure(error).code };
  }
}

/** Also registers again what went with the memory of a host. */
async function recover(cluster: Cluster, model: string): Promise<void> {
  const end = performance.now() + recoveryMilliseconds;
  for (;;) {
    try {
      await cluster.update('next', { atomic: true, timeoutMilliseconds: attemptMilliseconds });
      return;
    } catch (error) {
      if (performance.now() > end) throw error;
      if (error instanceof CheckpointError) await cluster.register('next', model).catch(() => {});
      await sleep(retryMilliseconds);
    }
  }
}
