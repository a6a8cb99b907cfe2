import { formatBytes } from '../units.ts';
import { type Finding, missing, ok, slow } from './finding.ts';
import type { Host } from './host.ts';

/** Each port of each RDMA device, the library to use them by, and how much memory may be locked for them. */
export function examineRdma(host: Host): Finding[] {
  const devices = host.list('/sys/class/infiniband');
  if (devices.length === 0) {
    const advice = 'hosts exchange weights over TCP, at a fraction of the speed; nothing to do for one host';
    return [missing('RDMA', 'no device', advice), examineLockLimit(host, false)];
  }
  const ports = devices.flatMap((device) =>
    host.list(`/sys/class/infiniband/${device}/ports`).map((port) => examinePort(host, device, port)),
  );
  return [...ports, examineVerbs(host), examineLockLimit(host, true)];
}

function examinePort(host: Host, device: string, port: string): Finding {
  const read = (name: string) => host.read(`/sys/class/infiniband/${device}/ports/${port}/${name}`);
  // "4: ACTIVE"
  const state = read('state')?.replace(/^\d+:\s*/, '') ?? 'state not known';
  const node = host.read(`/sys/class/infiniband/${device}/device/numa_node`);
  const what = [
    state,
    ...[read('link_layer'), read('rate')].filter((text) => text !== null && text !== ''),
    ...(node === null || node === '-1' ? [] : [`NUMA node ${node}`]),
  ].join(', ');
  const subject = `RDMA ${device} port ${port}`;
  if (state === 'ACTIVE') return ok(subject, what);
  return slow(
    subject,
    what,
    'it will not be used: check cable, interface (ip link) and, on InfiniBand, subnet manager',
  );
}

function examineVerbs(host: Host): Finding {
  const subject = 'RDMA verbs';
  const reason = host.whyNotLoaded('libibverbs.so.1');
  if (reason !== null)
    return missing(subject, reason, 'install libibverbs1 and ibverbs-providers (rdma-core)');
  if (!host.list('/dev/infiniband').some((name) => name.startsWith('uverbs'))) {
    return missing(
      subject,
      'no /dev/infiniband/uverbs*',
      'give it to the container (--device=/dev/infiniband)',
    );
  }
  return ok(subject, 'libibverbs and device nodes are there');
}

function examineLockLimit(host: Host, hasRdma: boolean): Finding {
  const subject = 'memlock';
  const line = host.read('/proc/self/limits')?.match(/^Max locked memory\s+(\S+)/m);
  if (line === null || line === undefined) return ok(subject, 'limit not known');
  if (line[1] === 'unlimited') return ok(subject, 'unlimited');
  const what = `limit of ${formatBytes(Number(line[1]))}`;
  if (!hasRdma) return ok(subject, `${what}; only RDMA would need more`);
  return missing(
    subject,
    what,
    'checkpoints cannot be registered for RDMA: ulimit -l unlimited, LimitMEMLOCK=infinity or --ulimit memlock=-1',
  );
}
