import { writeFileSync } from 'node:fs';
import { Command } from 'commander';
import { openCheckpoint } from '../src/checkpoint/source.ts';
import { interruptible, runCommand } from '../src/cli/interrupt.ts';
import { checkOutputFile } from '../src/cli/output-file.ts';
import { EngineError } from '../src/errors.ts';
import type { ClusterStatus, InstanceOptions, UpdateReport } from '../src/index.ts';
import { formatBytes } from '../src/units.ts';
import type { Fleet } from './fleet.ts';
import { LoadGenerator, type LoadReport, requestsText } from './load-generator.ts';
import { verifyWeights } from './verify-weights.ts';

/** Concurrent clients of each serving instance. */
const clients = 2;

/** Makes hosts that are really one machine read each other's memory over TCP, unless WEIGHTCAST_FABRIC is set. */
export function preferNetwork(): void {
  process.env.WEIGHTCAST_FABRIC ??= 'tcp';
}

/** A scenario as a command, with the options that all scenarios share and the exit codes of weightcast's commands. */
export function scenario<T extends { readonly json?: string }>(
  name: string,
  description: string,
  run: (options: T, signal: AbortSignal) => Promise<object>,
): Command {
  return new Command(`npx tsx scenarios/${name}.ts`)
    .description(`${description} The fabric is tcp unless WEIGHTCAST_FABRIC says shm or verbs.`)
    .option('--json <file>', 'write the result as JSON')
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
    .action((options: T) =>
      runCommand(async (signal) => {
        preferNetwork();
        checkOutputFile('--json', options.json);
        const result = { scenario: name, ...(await run(options, signal)) };
        if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(result, null, 2)}\n`);
      }),
    );
}

/** Prints one line about what happens next, on standard error like progress bars. */
export function announce(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** From whom an instance received how much, and how long its join took. */
export interface JoinFigures {
  /** From the request until every worker of the instance had acknowledged every bucket. */
  readonly joinSeconds: number;
  /** The part of it until the instance's rank processes had started. */
  readonly startSeconds: number;
  readonly bytes: number;
  readonly received: readonly ReceivedFrom[];
}

export interface ReceivedFrom {
  readonly instance: string;
  readonly rank: number;
  readonly bytes: number;
}

/** Adds an instance, calls `onAdded`, and updates it to a checkpoint from the memory of the instances that serve. */
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

/** Starts clients of these instances, which stop at the end of the fleet if not before. */
export function requestsAt(fleet: Fleet, names: readonly string[]): LoadGenerator[] {
  return names.map((name) => {
    const load = new LoadGenerator(fleet.engines.get(name)!.endpoint, name, clients);
    fleet.atEnd(() => load.stop());
    return load;
  });
}

/** Processes of the ranks of an instance. */
export function rankPids({ instances, ranks }: ClusterStatus, name: string): number[] {
  const members = instances.find((instance) => instance.name === name)!.ranks;
  return ranks.flatMap(({ rank, pid }) => (members.includes(rank) && pid !== null ? [pid] : []));
}

/** The rank numbers of several instances with `ranks` ranks each. */
export function ranksOfEach(instances: number, ranks: number): number[][] {
  return Array.from({ length: instances }, (_, at) =>
    Array.from({ length: ranks }, (_, n) => at * ranks + n),
  );
}

/** Stops load generators and merges their reports. Rejects with `EngineError` if a request failed that must not. */
export async function stopRequests(loads: readonly LoadGenerator[], mayFail = false): Promise<LoadReport> {
  const reports = await Promise.all(loads.map((load) => load.stop()));
  const failed = reports.reduce((sum, one) => sum + one.failed, 0);
  const { firstFailure = null } = reports.find((report) => report.firstFailure !== null) ?? {};
  if (failed > 0 && !mayFail)
    throw new EngineError(`${failed} requests failed, the first with: ${firstFailure}`);
  return {
    served: reports.reduce((sum, { served }) => sum + served, 0),
    failed,
    versions: [...new Set(reports.flatMap(({ versions }) => versions))],
    firstFailure,
    slowestMilliseconds: Math.max(...reports.map(({ slowestMilliseconds }) => slowestMilliseconds)),
  };
}

/** Verifies every worker of these instances against the files; see `verifyWeights`. */
export async function verifyInstances(
  { engines }: Fleet,
  names: readonly string[],
  model: string,
  signal: AbortSignal,
): Promise<void> {
  const index = await openCheckpoint(model);
  for (const name of names) await interruptible(verifyWeights(engines.get(name)!.endpoint, index), signal);
}

/** The figures of a join as rows of the result. */
export function joinRows(
  { joinSeconds, startSeconds, received }: JoinFigures,
  requests: LoadReport,
): (readonly [label: string, value: string])[] {
  return [
    ['joined in', `${joinSeconds} s, including ${startSeconds} s to start its processes`],
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
