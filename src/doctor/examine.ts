import type { Finding } from './finding.ts';
import { examineGpus } from './gpus.ts';
import type { Host } from './host.ts';
import { examineMemory } from './memory.ts';
import { examineRdma } from './rdma.ts';

/** Examines a machine for what weightcast needs or profits from. Never throws: what cannot be read is reported as such. */
export function examine(host: Host): Finding[] {
  return [...examineGpus(host), ...examineRdma(host), ...examineMemory(host)];
}

/** One line per finding. */
export function findingLines(findings: readonly Finding[]): string[] {
  const width = Math.max(...findings.map(({ subject }) => subject.length));
  return findings.map(({ verdict, subject, what, advice }) =>
    // Error messages of other libraries may have several lines.
    `${verdict.padEnd(7)}  ${subject.padEnd(width)}  ${what}${advice === null ? '' : `; ${advice}`}`.replaceAll(
      '\n',
      ' ',
    ),
  );
}
