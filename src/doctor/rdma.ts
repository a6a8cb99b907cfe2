import { describe } from '../errors.ts';
import { type HostRdmaPort, rdmaOptionsOf } from '../native-bridge/fabric.ts';
import { listPciGpus, placeOfRdmaDevice } from '../native-bridge/pci.ts';
import { nearnessOf } from '../plan/nic-distance.ts';
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
  return [
    ...ports,
    ...examineShares(host, devices),
    examineVerbs(host),
    examineParameters(host),
    examineLockLimit(host, true),
  ];
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

/** Which ports the rank of each GPU uses, and how far they are from it. */
function examineShares(host: Host, devices: readonly string[]): Finding[] {
  const gpus = gpusOf(host);
  const ports = devices.flatMap((device) => portsOf(host, device));
  return gpus.map((gpu, localRank) => {
    const subject = `RDMA of GPU ${localRank}`;
    try {
      const position = { gpu, localRank, localRanks: gpus.length };
      const { rdmaPorts } = rdmaOptionsOf(host.environment, position, { ports, why: '' }, host.root);
      return shareOf(host, subject, gpu, rdmaPorts);
    } catch (error) {
      return missing(subject, describe(error), 'no rank that reads from another host starts with it');
    }
  });
}

function shareOf(
  { root }: Host,
  subject: string,
  gpu: string,
  ports: readonly { readonly device: string; readonly port: number }[],
): Finding {
  if (ports.length === 0) return missing(subject, 'no active port', 'it reads from other hosts over TCP');
  const place = listPciGpus(root).find(({ address }) => address === gpu)?.place ?? null;
  const distances = ports.map(({ device }) => {
    const other = placeOfRdmaDevice(device, root);
    return place === null || other === null ? null : nearnessOf(place, other);
  });
  const what = ports
    .map(
      ({ device, port }, index) =>
        `${device}:${port}${distances[index] === null ? '' : ` (${distances[index]})`}`,
    )
    .join(', ');
  if (!distances.includes('SYS')) return ok(subject, what);
  return slow(subject, what, 'bytes from other hosts cross the NUMA nodes: no port is nearer to this GPU');
}

function gpusOf(host: Host): string[] {
  try {
    return host.probeCuda().devices.map(({ pciAddress }) => pciAddress);
  } catch {
    // Said of the driver.
    return [];
  }
}

function portsOf(host: Host, device: string): HostRdmaPort[] {
  const folder = `/sys/class/infiniband/${device}/ports`;
  return host.list(folder).map((port) => ({
    device,
    port: Number(port),
    isActive: host.read(`${folder}/${port}/state`)?.endsWith('ACTIVE') ?? false,
    linkLayer: host.read(`${folder}/${port}/link_layer`) === 'InfiniBand' ? 'infiniband' : 'ethernet',
  }));
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
