import { cutAt } from '../checkpoint/cuts.ts';
import { arrivalDigest } from '../checkpoint/manifest.ts';
import type { PartReport } from '../checkpoint/parts.ts';
import type { Plan } from './plan.ts';

type Columns = Omit<PartReport, 'rank'>;

/** What the worker of a rank says of what it received; `as registered`: of every tensor the whole, with the checkpoint's digest. */
export interface ArrivedReport {
  readonly rank: number;
  /** By which the rank announced tensors to its worker. */
  readonly plan: Plan;
  readonly arrived: Columns | 'as registered';
}

/**
 * What an engine worker reports, which is in the order in which tensors were announced to it, in the order of the
 * manifest's rows. Of rows that were not it holds nothing. Unchanged if it has not as many entries as the plan.
 */
export function inManifestOrder(
  report: Columns,
  { tensorOrder }: Pick<Plan, 'tensorOrder'>,
  rows = tensorOrder.length,
): Columns {
  const entries = tensorOrder.length;
  const { digests, part, parts } = report;
  if (digests.length !== entries || part.length !== entries || parts.length !== entries) return report;
  const ordered = {
    digests: new BigUint64Array(rows),
    part: new Uint16Array(rows),
    parts: new Uint16Array(rows),
  };
  for (const [entry, row] of tensorOrder.entries()) {
    ordered.digests[row] = digests[entry]!;
    ordered.part[row] = part[entry]!;
    ordered.parts[row] = parts[entry]!;
  }
  return ordered;
}

/** The same in a few bytes, for a worker that holds all that was announced to it as it was announced; null for others. */
export function shortReport({ digests, part, parts }: Columns): string | null {
  const isAsSent = parts.every((count) => count === 1) && part.every((number) => number === 0);
  return isAsSent ? arrivalDigest(digests) : null;
}

/** Reports of the workers of one instance in the order of the manifest's rows, for `combineParts`. `registered`: its digests. */
export function arrivedReports(reports: readonly ArrivedReport[], registered: BigUint64Array): PartReport[] {
  const rows = registered.length;
  const startsOf = sentStarts(reports, rows);
  return reports.map(({ rank, plan, arrived }) => {
    if (arrived === 'as registered') {
      return { rank, digests: registered, part: new Uint16Array(rows), parts: new Uint16Array(rows).fill(1) };
    }
    const columns = inManifestOrder(arrived, plan, rows);
    if (plan.cuts !== null && columns !== arrived) numberParts(columns, plan, startsOf);
    return { rank, ...columns };
  });
}

/** Of each row that is cut, where its different parts start, ascending. */
function sentStarts(reports: readonly ArrivedReport[], rows: number): (number[] | undefined)[] {
  const startsOf: (number[] | undefined)[] = new Array(rows);
  for (const { plan } of reports) {
    for (const [entry, row] of plan.cuts === null ? [] : plan.tensorOrder.entries()) {
      const cut = cutAt(plan.cuts!, entry);
      if (cut === null) continue;
      const starts = startsOf[row];
      if (starts === undefined) startsOf[row] = [cut.start];
      else if (!starts.includes(cut.start)) starts.push(cut.start);
    }
  }
  for (const starts of startsOf) starts?.sort((one, other) => one - other);
  return startsOf;
}

/** A worker that was sent a part of a tensor does not know which of how many. */
function numberParts(
  { part, parts }: Columns,
  { tensorOrder, cuts }: Plan,
  startsOf: readonly (number[] | undefined)[],
): void {
  for (const [entry, row] of tensorOrder.entries()) {
    const cut = cutAt(cuts!, entry);
    if (cut === null) continue;
    part[row] = startsOf[row]!.indexOf(cut.start);
    parts[row] = startsOf[row]!.length;
  }
}
