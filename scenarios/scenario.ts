import { writeFileSync } from 'node:fs';
import { Command } from 'commander';
import { openCheckpoint } from '../src/checkpoint/source.ts';
import { interruptible, runCommand } from '../src/cli/interrupt.ts';
import { EngineError } from '../src/errors.ts';
import type { InstanceOptions, UpdateReport } from '../src/index.ts';
import { formatBytes } from '../src/units.ts';
import type { Fleet } from './fleet.ts';
import { LoadGenerator, type LoadReport, requestsText } from './load-generator.ts';
import { verifyWeights } from './verify-weights.ts';

/** Requests that are under way at each instance that serves. */
const clients = 2;

/** Hosts in name only, which are one machine, read each other's memory as hosts do, unless told otherwise. */
export function preferNetwork(): void {
  process.env.WEIGHTCAST_FABRIC ??= 'tcp';
}

/** A command of scenarios/ with the options that all have: it ends as every weightcast command does. */
export function scenario<T extends { readonly json?: string }>(
  name: string,
  description: string,
  run: (options: T, signal: AbortSignal) => Promise<object>,
): Command {
  return new Command(`npx tsx scenarios/${name}.ts`)
    .description(`${description} The fabric is tcp unless WEIGHTCAST_FABRIC says shm or verbs.`)
    .option('--json <file>', 'write the figures as JSON')
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
    .action((options: T) =>
      runCommand(async (signal) => {
        preferNetwork();
        const result = { scenario: name, ...(await run(options, signal)) };
        if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(result, null, 2)}\n`);
      }),
    );
}

/** One line that says what comes next; on standard error, as progress bars are. */
export function announce(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** What an instance got from whom, and how long it took. */
export interface JoinFigures {
  /** From asking the cluster until every worker of the instance had acknowledged every bucket. */
  readonly joinSeconds: number;
  /** Of them, until its rank processes had started. */
  readonly startSeconds: number;
  readonly bytes: number;
  readonly received: readonly ReceivedFrom[];
}

export interface ReceivedFrom {
  readonly instance: string;
  readonly rank: number;
  readonly bytes: number;
}

/** Lets an instance join, does what `onAdded` does, and brings it a checkpoint from the memory of those that serve. */
export async function joinInstance(
  { cluster }: Fleet,
  instance: InstanceOptions,
  checkpoint: string,
  onAdded: () => Promise<void> = async () => {},
): Promise<{ readonly figures: JoinFigures; readonly report: UpdateReport }> {
  const startedAt = performance.now();
  const { instances } = await cluster.addInstance(instance);
  const addedAt = performance.now();
  await onAdded();
  const report = await cluster.update(checkpoint, { instances: [instance.name] });
  const endedAt = performance.now();
  const nameOf = (rank: number) => instances.find(({ ranks }) => ranks.includes(rank))?.name ?? 'unknown';
  return {
    report,
    figures: {
      joinSeconds: seconds(endedAt - startedAt),
      startSeconds: seconds(addedAt - startedAt),
      bytes: report.bytes,
      received: report.received.map(({ from, bytes }) => ({ instance: nameOf(from), rank: from, bytes })),
    },
  };
}

/** Clients of instances, which are told to stop at the end of the fleet. */
export function requestsAt(fleet: Fleet, names: readonly string[]): LoadGenerator[] {
  return names.map((name) => {
    const load = new LoadGenerator(fleet.engines.get(name)!.endpoint, name, clients);
    fleet.atEnd(() => load.stop());
    return load;
  });
}

/** Numbers of the ranks of so many instances, which have `ranks` each. */
export function ranksOfEach(instances: number, ranks: number): number[][] {
  return Array.from({ length: instances }, (_, at) =>
    Array.from({ length: ranks }, (_, n) => at * ranks + n),
  );
}

/** What several load generators report, once they have stopped. Rejects with `EngineError` if a request failed. */
export async function stopRequests(loads: readonly LoadGenerator[]): Promise<LoadReport> {
  const reports = await Promise.all(loads.map((load) => load.stop()));
  const failed = reports.reduce((sum, one) => sum + one.failed, 0);
  const { firstFailure = null } = reports.find((report) => report.firstFailure !== null) ?? {};
  if (failed > 0) throw new EngineError(`${failed} requests failed, the first with: ${firstFailure}`);
  return {
    served: reports.reduce((sum, { served }) => sum + served, 0),
    failed,
    versions: [...new Set(reports.flatMap(({ versions }) => versions))],
    firstFailure,
    slowestMilliseconds: Math.max(...reports.map(({ slowestMilliseconds }) => slowestMilliseconds)),
  };
}

/** Compares what every worker of these instances holds with the files; see `verifyWeights`. */
export async function verifyInstances(
  { engines }: Fleet,
  names: readonly string[],
  model: string,
  signal: AbortSignal,
): Promise<void> {
  const index = await openCheckpoint(model);
  for (const name of names) await interruptible(verifyWeights(engines.get(name)!.endpoint, index), signal);
}

/** How a join went, for people. */
export function joinRows(
  { joinSeconds, startSeconds, received }: JoinFigures,
  requests: LoadReport,
): (readonly [label: string, value: string])[] {
  return [
    ['joined in', `${joinSeconds} s, of which its processes took ${startSeconds} s to start`],
    ...received.map(
      ({ instance, rank, bytes }) => [`from rank ${rank}`, `${formatBytes(bytes)} (${instance})`] as const,
    ),
    requestsRow(requests),
  ];
}

export function requestsRow(requests: LoadReport): readonly [label: string, value: string] {
  return ['requests', `${requestsText(requests)}; the slowest took ${requests.slowestMilliseconds} ms`];
}

export function seconds(milliseconds: number): number {
  return Number((milliseconds / 1000).toFixed(3));
}
