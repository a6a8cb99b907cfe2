import { arrivalDigest } from '../../checkpoint/manifest.ts';
import { inManifestOrder, shortReport } from '../../plan/arrived-order.ts';
import type { Plan } from '../../plan/plan.ts';
import { arrivalOf } from '../../plan/sparing.ts';
import type { Arrived, ArrivedDigests } from '../protocol/update-values.ts';
import type { Announcement } from './announcement.ts';
import type { TransferOptions } from './transfer-options.ts';

/**
 * What a rank says of what its worker has received: nearly always that it is as registered, instead of twelve bytes for
 * each tensor. What is received of parts only all ranks of an instance know together: of that it says a digest, and more if it is
 * asked.
 */
export function arrivedAnswer(
  report: ArrivedDigests | null,
  { plan, expected, announcement }: Pick<TransferOptions, 'plan' | 'expected' | 'announcement'>,
): Arrived | null {
  if (report !== null && announcement !== null) return answerOfAnnounced(report, plan, announcement);
  if (report === null || report.digests.length !== plan.tensorOrder.length) return report;
  if (plan.cuts !== null) {
    const digest = shortReport(report);
    return digest === null ? report : { digest };
  }
  if (!isWhole(report)) return report;
  return arrivalDigest(inManifestOrder(report, plan).digests) === expected ? 'as registered' : report;
}

/** The worker says nothing of what was not announced to it: in full, that it holds nothing of it. */
function answerOfAnnounced(
  report: ArrivedDigests,
  { tensorOrder }: Plan,
  { rows, expected }: Announcement,
): Arrived {
  const announced = tensorOrder.filter((row) => rows[row] === 1);
  if (report.digests.length !== announced.length) return report;
  const ordered = inManifestOrder(report, { tensorOrder: announced }, rows.length);
  if (isWhole(report) && arrivalOf(ordered.digests, (row) => rows[row] === 1) === expected)
    return 'as registered';
  return {
    digests: BigUint64Array.from(tensorOrder, (row) => ordered.digests[row]!),
    part: Uint16Array.from(tensorOrder, (row) => ordered.part[row]!),
    parts: Uint16Array.from(tensorOrder, (row) => ordered.parts[row]!),
  };
}

function isWhole({ part, parts }: ArrivedDigests): boolean {
  return parts.every((count) => count === 1) && part.every((number) => number === 0);
}
