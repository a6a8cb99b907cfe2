import { arrivalDigest } from '../../checkpoint/manifest.ts';
import { inManifestOrder, shortReport } from '../../plan/arrived-order.ts';
import type { Plan } from '../../plan/plan.ts';
import type { Arrived, ArrivedDigests } from '../protocol/update-values.ts';

/**
 * What a rank says of what its worker has received: nearly always that it is as registered, instead of twelve bytes for
 * each tensor. What is received of parts only all ranks of an instance know together: of that it says a digest, and more if it is
 * asked. `expected`: `arrivalDigest` of the checkpoint.
 */
export function arrivedAnswer(report: ArrivedDigests | null, plan: Plan, expected: string): Arrived | null {
  if (report === null || report.digests.length !== plan.tensorOrder.length) return report;
  if (plan.cuts !== null) {
    const digest = shortReport(report);
    return digest === null ? report : { digest };
  }
  const isWhole = report.parts.every((parts) => parts === 1) && report.part.every((part) => part === 0);
  if (!isWhole) return report;
  return arrivalDigest(inManifestOrder(report, plan).digests) === expected ? 'as registered' : report;
}
