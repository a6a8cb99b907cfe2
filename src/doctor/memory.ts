import { formatBytes } from '../units.ts';
import { type Finding, missing, ok, slow } from './finding.ts';
import { type Host, numaNodes } from './host.ts';

/** Too small for any real checkpoint; Docker's default is 64 MiB. */
const leastSharedBytes = 2 ** 30;

/** Examines shared memory, its huge pages and NUMA. */
export function examineMemory(host: Host): Finding[] {
  return [examineSharedMemory(host), examineHugePages(host), examineNuma(host)];
}

function examineSharedMemory(host: Host): Finding {
  const subject = '/dev/shm';
  const advice =
    'it must hold whole checkpoints: run the container with --ipc=host or --shm-size, or remount it with size=';
  const space = host.space('/dev/shm');
  if (space === null) return missing(subject, 'not mounted', advice, true);
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
  if (options === undefined) return ok(subject, 'unknown, because /dev/shm is not a mount point');
  const huge = /(?:^|,)huge=(\w+)/.exec(options)?.[1] ?? 'never';
  if (huge === 'always' || huge === 'within_size') return ok(subject, `used for /dev/shm (huge=${huge})`);
  return slow(
    subject,
    `not used for /dev/shm (huge=${huge})`,
    'creating and pinning segments takes at least twice as long: mount -o remount,huge=within_size /dev/shm',
  );
}

function examineNuma(host: Host): Finding {
  const nodes = numaNodes(host);
  if (nodes.length <= 1) return ok('NUMA', '1 node');
  return ok('NUMA', `${nodes.length} nodes; segments are placed on the node of their GPU`);
}
