import { realpathSync } from 'node:fs';
import { join, relative } from 'node:path';
import type { PciPlace } from '../plan/nic-distance.ts';
import { namesIn, textOf } from './root-files.ts';

/** Vendors whose display controllers and accelerators are GPUs that ranks own: NVIDIA. */
const gpuVendors = new Set(['0x10de']);
/** PCI classes: VGA and 3D controllers. */
const gpuClasses = ['0x0300', '0x0302'];

/** A GPU of this machine, whether this process may use it or not. */
export interface PciGpu {
  /** `0000:1b:00.0` */
  readonly address: string;
  readonly place: PciPlace;
}

/** GPUs in the order of their addresses. `root`: of another machine's files, for tests. */
export function listPciGpus(root = ''): PciGpu[] {
  const folder = '/sys/bus/pci/devices';
  return namesIn(root, folder).flatMap((address) => {
    const read = (name: string) => textOf(root, `${folder}/${address}/${name}`);
    const kind = read('class');
    const isGpu = gpuVendors.has(read('vendor') ?? '') && gpuClasses.some((each) => kind?.startsWith(each));
    const place = isGpu ? placeAt(root, `${folder}/${address}`) : null;
    return place === null ? [] : [{ address, place }];
  });
}

/** Where an RDMA device is; null if sysfs does not say, as of soft-RoCE. */
export function placeOfRdmaDevice(device: string, root = ''): PciPlace | null {
  return placeAt(root, `/sys/class/infiniband/${device}/device`);
}

/** Gbit/s of a port of an RDMA device; null if sysfs does not say. */
export function rateOfRdmaPort(device: string, port: number, root = ''): number | null {
  // "400 Gb/sec (4X NDR)"
  const match = /^([\d.]+) Gb\/sec/.exec(
    textOf(root, `/sys/class/infiniband/${device}/ports/${port}/rate`) ?? '',
  );
  return match === null ? null : Number(match[1]);
}

/** A device's folder in sysfs lies within those of the bridges above it. */
function placeAt(root: string, path: string): PciPlace | null {
  let real: string;
  try {
    real = relative(realpathSync(root === '' ? '/' : root), realpathSync(join(root, path)));
  } catch {
    return null;
  }
  const names = real.split('/');
  const first = names.findIndex((name) => /^pci[0-9a-f]{4}:[0-9a-f]{2}$/.test(name));
  if (first < 0) return null;
  const numaNode = Number(textOf(root, `${path}/numa_node`) ?? '-1');
  return { path: names.slice(first), numaNode: numaNode >= 0 ? numaNode : null };
}
