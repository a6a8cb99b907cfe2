import type { PartReport } from '../checkpoint/parts.ts';
import type { Plan } from './plan.ts';

type Columns = Omit<PartReport, 'rank'>;

/**
 * What an engine worker reports, which is in the order in which tensors were announced to it, in the order of the
 * manifest's rows. Unchanged if it has not as many entries as the plan.
 */
export function inManifestOrder(report: Columns, { tensorOrder }: Pick<Plan, 'tensorOrder'>): Columns {
  const rows = tensorOrder.length;
  const { digests, part, parts } = report;
  if (digests.length !== rows || part.length !== rows || parts.length !== rows) return report;
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
