import { describe } from '../errors.ts';
import { verbsParametersOf, verbsVariables } from '../plan/verbs-parameters.ts';
import { formatBytes } from '../units.ts';
import { type Finding, missing, ok, slow } from './finding.ts';
import type { Host } from './host.ts';

/** Examines each port of each RDMA device, the verbs library, and the limit of locked memory. */
export function examineRdma(host: Host): Finding[] {
  const devices = host.list('/sys/class/infiniband');
  if (devices.length === 0) {
    const advice = 'hosts exchange weights over TCP, which is much slower; not needed for a single host';
    return [missing('RDMA', 'no device', advice), examineLockLimit(host, false)];
  }
  const ports = devices.flatMap((device) =>
    host.list(`/sys/class/infiniband/${device}/ports`).map((port) => examinePort(host, device, port)),
  );
  return [...ports, examineVerbs(host), examineParameters(host), examineLockLimit(host, true)];
}

function examinePort(host: Host, device: string, port: string): Finding {
  const read = (name: string) => host.read(`/sys/class/infiniband/${device}/ports/${port}/${name}`);
  // "4: ACTIVE"
  const state = read('state')?.replace(/^\d+:\s*/, '') ?? 'state unknown';
  const node = host.read(`/sys/class/infiniband/${device}/device/numa_node`);
  const what = [
    state,
    ...[read('link_layer'), read('rate')].filter((text) => text !== null && text !== ''),
    ...(node === null || node === '-1' ? [] : [`NUMA node ${node}`]),
  ].join(', ');
  const subject = `RDMA ${device} port ${port}`;
  if (state === 'ACTIVE') return ok(subject, what);
  const advice =
    'not used until it is ACTIVE: check the cable, the interface (ip link) and, on InfiniBand, the subnet manager';
  return slow(subject, what, advice);
}

function examineVerbs(host: Host): Finding {
  const subject = 'RDMA verbs';
  const reason = host.loadError('libibverbs.so.1');
  if (reason !== null)
    return missing(subject, reason, 'install libibverbs1 and ibverbs-providers (rdma-core)');
  if (!host.list('/dev/infiniband').some((name) => name.startsWith('uverbs'))) {
    const advice =
      'load the module ib_uverbs, or pass the device to the container (--device=/dev/infiniband)';
    return missing(subject, 'no /dev/infiniband/uverbs*', advice);
  }
  return ok(subject, 'libibverbs and device nodes found');
}

/** What the variables that NCCL reads say of RDMA connections. */
function examineParameters({ environment }: Host): Finding {
  const subject = 'RDMA parameters';
  const set = verbsVariables.filter((name) => environment[name]?.trim());
  try {
    verbsParametersOf(environment);
  } catch (error) {
    return missing(subject, describe(error), 'no rank that reads from another host starts with it');
  }
  if (set.length === 0)
    return ok(subject, 'defaults; set NCCL_IB_TC and others where the network needs them');
  return ok(subject, set.map((name) => `${name}=${environment[name]!.trim()}`).join(' '));
}

function examineLockLimit(host: Host, hasRdma: boolean): Finding {
  const subject = 'memlock';
  const line = host.read('/proc/self/limits')?.match(/^Max locked memory\s+(\S+)/m);
  if (line === null || line === undefined) return ok(subject, 'limit unknown');
  if (line[1] === 'unlimited') return ok(subject, 'unlimited');
  const what = `limited to ${formatBytes(Number(line[1]))}`;
  if (!hasRdma) return ok(subject, `${what}, which matters for RDMA only`);
  return missing(
    subject,
    what,
    'too little to register checkpoints for RDMA: ulimit -l unlimited, LimitMEMLOCK=infinity (systemd) or ' +
      '--ulimit memlock=-1 (docker)',
  );
}
