import { describe } from '../errors.ts';
import type { CudaProbe } from '../native-bridge/addon.ts';
import { formatBytes } from '../units.ts';
import { type Finding, missing, ok, slow } from './finding.ts';
import { type Host, numaNodes } from './host.ts';

/** Examines the driver, each GPU and NCCL. */
export function examineGpus(host: Host): Finding[] {
  let probe: CudaProbe;
  try {
    probe = host.probeCuda();
  } catch (error) {
    const hasGpu = host.list('/sys/bus/pci/devices').some((address) => isNvidiaGpu(host, address));
    const [what, advice] = splitAdvice(describe(error));
    const driver = hasGpu
      ? missing('driver', what, advice, true)
      : missing('driver', what, `${advice}; not needed on a host without a GPU, which uses host devices`);
    return [driver, examineNccl(host, 0)];
  }
  const release = host.read('/sys/module/nvidia/version');
  const driver = `CUDA ${probe.version}${release === null ? '' : `, driver ${release}`}`;
  return [
    ok('driver', driver),
    ...probe.devices.map((device, index) => examineGpu(host, device, index)),
    examineNccl(host, probe.devices.length),
  ];
}

function isNvidiaGpu(host: Host, address: string): boolean {
  const read = (name: string) => host.read(`/sys/bus/pci/devices/${address}/${name}`);
  return read('vendor') === '0x10de' && read('class')?.startsWith('0x03') === true;
}

/** Error messages of the native code have the problem before the semicolon and the advice after it. */
function splitAdvice(message: string): [string, string] {
  const at = message.indexOf('; ');
  return at < 0 ? [message, 'check with nvidia-smi'] : [message.slice(0, at), message.slice(at + 2)];
}

function examineGpu(host: Host, device: CudaProbe['devices'][number], index: number): Finding {
  const read = (name: string) => host.read(`/sys/bus/pci/devices/${device.pciAddress}/${name}`);
  const subject = `GPU ${index}`;
  const node = read('numa_node');
  const link = linkText(read('max_link_speed'), read('current_link_width'));
  const what = [
    device.name,
    device.uuid,
    formatBytes(device.totalBytes),
    ...(node === null ? [] : [node === '-1' ? 'NUMA node unknown' : `NUMA node ${node}`]),
    ...(link === null ? [] : [link]),
  ].join(', ');
  const [width, most] = [Number(read('current_link_width')), Number(read('max_link_width'))];
  if (width > 0 && width < most) {
    const percent = Math.round((100 * width) / most);
    const advice = `uploads reach only ${percent} % of the speed of the GPU's ${most} PCIe lanes: check its slot and riser`;
    return slow(subject, what, advice);
  }
  if (node === '-1' && numaNodes(host).length > 1) {
    const advice = 'uploads may cross NUMA nodes: start its rank under numactl --membind';
    return slow(subject, what, advice);
  }
  return ok(subject, what);
}

/** `PCIe 5 x16`: the maximum speed, because an idle GPU lowers its current one, and the current number of lanes. */
function linkText(speed: string | null, width: string | null): string | null {
  const rates = ['2.5', '5.0', '8.0', '16.0', '32.0', '64.0'];
  const generation = rates.indexOf(speed?.split(' ')[0] ?? '') + 1;
  if (generation === 0 || width === null) return null;
  return `PCIe ${generation} x${width}`;
}

/** Non-blocking communicators work reliably since 2.19, several ranks on one GPU since 2.30.7. */
const [oldestNccl, sharingNccl] = [2_19_00, 2_30_07];

/** The consequence of a missing NCCL, which depends on the number of GPUs. */
function withoutNccl(gpus: number): string {
  if (gpus === 0) return 'not needed without a GPU';
  return gpus === 1
    ? 'not needed for ranks on one GPU'
    : 'without it, GPUs of one host copy from each other instead of broadcasting';
}

function examineNccl(host: Host, gpus: number): Finding {
  let version: number;
  try {
    version = host.ncclVersion();
  } catch (error) {
    const advice =
      'install it, or set WEIGHTCAST_NCCL to the path of libnccl.so.2 (with pip: site-packages/nvidia/nccl/lib)';
    return missing('NCCL', describe(error), `${advice}; ${withoutNccl(gpus)}`);
  }
  const text = `${Math.floor(version / 10_000)}.${Math.floor(version / 100) % 100}.${version % 100}`;
  if (version < oldestNccl) {
    return missing('NCCL', `${text} is too old`, 'install 2.19 or newer');
  }
  if (version < sharingNccl) {
    return ok('NCCL', text, 'broadcasts among ranks that share a GPU need 2.30.7 or newer');
  }
  return ok('NCCL', text);
}
