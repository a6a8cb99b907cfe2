import { describe } from '../errors.ts';
import type { CudaProbe } from '../native-bridge/addon.ts';
import { formatBytes } from '../units.ts';
import { type Finding, missing, ok, slow } from './finding.ts';
import { type Host, numaNodes } from './host.ts';

/** The driver, each GPU, and NCCL. */
export function examineGpus(host: Host): Finding[] {
  let probe: CudaProbe;
  try {
    probe = host.probeCuda();
  } catch (error) {
    const hasGpu = host.list('/sys/bus/pci/devices').some((address) => isNvidiaGpu(host, address));
    const [what, advice] = splitAdvice(describe(error));
    const driver = hasGpu
      ? missing('driver', what, advice, true)
      : missing('driver', what, `${advice}; a host without a GPU needs none and takes host devices`);
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

/** Messages of the native code say what is wrong before the semicolon and what to do after it. */
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
    ...(node === null ? [] : [node === '-1' ? 'NUMA node not known' : `NUMA node ${node}`]),
    ...(link === null ? [] : [link]),
  ].join(', ');
  const [width, most] = [Number(read('current_link_width')), Number(read('max_link_width'))];
  if (width > 0 && width < most) {
    return slow(
      subject,
      what,
      `uploads run at ${Math.round((100 * width) / most)} % of what the GPU's ${most} lanes could do: check its slot and riser`,
    );
  }
  if (node === '-1' && numaNodes(host).length > 1) {
    return slow(subject, what, 'segments may lie on a far node: start its rank under numactl --membind');
  }
  return ok(subject, what);
}

/** `PCIe 5 x16`: the fastest that card and slot can do, because an idle GPU slows its link down; lanes as they are. */
function linkText(speed: string | null, width: string | null): string | null {
  const rates = ['2.5', '5.0', '8.0', '16.0', '32.0', '64.0'];
  const generation = rates.indexOf(speed?.split(' ')[0] ?? '') + 1;
  if (generation === 0 || width === null) return null;
  return `PCIe ${generation} x${width}`;
}

/** Non-blocking communicators that can be trusted came with 2.19, several ranks on a GPU with 2.30.7. */
const [oldestNccl, sharingNccl] = [2_19_00, 2_30_07];

function examineNccl(host: Host, gpus: number): Finding {
  let version: number;
  try {
    version = host.ncclVersion();
  } catch (error) {
    const advice =
      'install it, or set WEIGHTCAST_NCCL to its libnccl.so.2 (pip: site-packages/nvidia/nccl/lib)';
    return missing(
      'NCCL',
      describe(error),
      gpus > 1 ? advice : `${advice}; ranks on ${gpus === 0 ? 'no GPU' : 'a GPU of their own'} need none`,
    );
  }
  const text = `${Math.floor(version / 10_000)}.${Math.floor(version / 100) % 100}.${version % 100}`;
  if (version < oldestNccl) {
    return missing('NCCL', `${text} is too old`, 'install 2.19 or newer');
  }
  if (version < sharingNccl) {
    return ok('NCCL', text, 'several ranks on one GPU will not work; that needs 2.30.7');
  }
  return ok('NCCL', text);
}
