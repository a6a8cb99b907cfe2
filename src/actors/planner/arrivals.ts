import { createHash } from 'node:crypto';
import { adoptedFile, segmentFile } from '../../checkpoint/file-identity.ts';
import type { Manifest } from '../../checkpoint/manifest.ts';
import { type BadTensor, combineParts } from '../../checkpoint/parts.ts';
import { VerificationError } from '../../errors.ts';
import { type ArrivedReport, arrivedReports, shortReport } from '../../plan/arrived-order.ts';
import { sentDigest } from '../../plan/plan-digest.ts';
import { RecentMap } from '../../recent-map.ts';
import type { PlannerMessage } from '../protocol/planner.ts';
import { isShort } from '../protocol/update-values.ts';

type Question = Pick<Extract<PlannerMessage, { type: 'verify' }>, 'layout' | 'instance' | 'reports'>;

/** Ways in which the workers of an instance hold a checkpoint. */
const mostKnown = 256;

/**
 * Compares what engine workers say that arrived with what is registered. Of parts ranks first say the SHA-256 of all digests:
 * instances that divide a model alike hold it rightly with the same ones, so that only one of them has to say more. What was
 * compared then is what was compared of them: the order of the tensors, the parts, and every digest.
 */
export class Arrivals {
  readonly #breathe: () => Promise<void>;
  /** What was found right, by all that it follows from. */
  readonly #right = new RecentMap<string, true>(mostKnown);

  /** `breathe`: as `PlannerPorts`. */
  constructor(breathe: () => Promise<void>) {
    this.#breathe = breathe;
  }

  /**
   * Resolves with the ranks whose digests are needed in full; without any all is right. `layout`: of the registered checkpoint, its
   * content included. Rejects with `VerificationError`.
   */
  async verify(manifest: Manifest, { layout, instance, reports }: Question): Promise<{ lacking: number[] }> {
    const short = reports.filter(({ arrived }) => isShort(arrived));
    if (short.length > 0) {
      const isKnown = this.#right.get(keyOf(layout, reports)) !== undefined;
      return { lacking: isKnown ? [] : short.map(({ rank }) => rank) };
    }
    await this.#breathe();
    const full = reports as readonly ArrivedReport[];
    const ordered = arrivedReports(full, manifest.digests);
    await this.#breathe();
    const verdict = combineParts(ordered, manifest.digests);
    if (verdict.ok) {
      const isRepeatable = full.every(
        ({ arrived }) => arrived === 'as registered' || shortReport(arrived) !== null,
      );
      if (isRepeatable) this.#right.set(keyOf(layout, reports), true);
      return { lacking: [] };
    }
    const [{ row, reason }] = verdict.bad as [BadTensor];
    const others = verdict.badCount > 1 ? ` (and ${verdict.badCount - 1} more tensors)` : '';
    throw new VerificationError(
      `instance ${instance} does not hold the checkpoint: tensor ${manifest.names[row]} ${reason}${others}${whence(manifest, row)}`,
    );
  }
}

/** Of all that a verdict about parts follows from: what was sent, in what order, and what its digests were. */
function keyOf(layout: string, reports: Question['reports']): string {
  const facts = reports.map(({ plan, arrived }) => [sentDigest(plan), wordOf(arrived)]);
  return createHash('sha256')
    .update(JSON.stringify([layout, facts]))
    .digest('hex');
}

function wordOf(arrived: Question['reports'][number]['arrived']): string {
  if (arrived === 'as registered') return arrived;
  return isShort(arrived) ? arrived.digest : (shortReport(arrived) ?? 'not as announced');
}

/** The file of a tensor that lies in one, for errors: stores through a mapping of it change no time stamp. */
function whence({ segments, segmentOf }: Manifest, row: number): string {
  const { path, host } = segments[segmentOf[row]!]!;
  if (adoptedFile(path) === null) return '';
  return `; it lies in ${segmentFile(path)} on host ${host}, which must not be written while it is registered`;
}
