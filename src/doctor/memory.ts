import { formatBytes } from '../units.ts';
import { type Finding, missing, ok, slow } from './finding.ts';
import { type Host, numaNodes } from './host.ts';

/** No checkpoint worth the name fits in less; containers start with 64 MiB. */
const leastSharedBytes = 2 ** 30;

/** Shared memory, its huge pages, and NUMA. */
export function examineMemory(host: Host): Finding[] {
  return [examineSharedMemory(host), examineHugePages(host), examineNuma(host)];
}

function examineSharedMemory(host: Host): Finding {
  const subject = '/dev/shm';
  const advice =
    'checkpoints lie there: run the container with --ipc=host or --shm-size, or remount with size=';
  const space = host.space('/dev/shm');
  if (space === null) return missing(subject, 'not there', advice, true);
  const what = `${formatBytes(space.total)}, ${formatBytes(space.free)} free`;
  if (space.total < leastSharedBytes) return missing(subject, what, advice, true);
  return ok(subject, what);
}

function examineHugePages(host: Host): Finding {
  const subject = 'huge pages';
  const options = host
    .read('/proc/self/mounts')
    ?.split('\n')
    .map((line) => line.split(' '))
    .findLast(([, folder]) => folder === '/dev/shm')?.[3];
  if (options === undefined) return ok(subject, 'cannot say: /dev/shm is no mount of its own');
  const huge = /(?:^|,)huge=(\w+)/.exec(options)?.[1] ?? 'never';
  if (huge === 'always' || huge === 'within_size') return ok(subject, `/dev/shm has them (huge=${huge})`);
  return slow(
    subject,
    `/dev/shm has none (huge=${huge})`,
    'segments are made and pinned at half the speed or less: mount -o remount,huge=within_size /dev/shm',
  );
}

function examineNuma(host: Host): Finding {
  const nodes = numaNodes(host);
  if (nodes.length <= 1) return ok('NUMA', 'one node');
  return ok('NUMA', `${nodes.length} nodes; segments are placed next to their GPU`);
}
