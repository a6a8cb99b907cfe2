import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { TestContext } from 'node:test';
import { type Host, hostFiles } from '../../src/doctor/host.ts';
import { NativeError } from '../../src/errors.ts';

const gibibyte = 2 ** 30;

/** Files of a healthy machine with one GPU, NCCL and one RDMA port, by path. */
const healthy: Readonly<Record<string, string>> = {
  '/sys/module/nvidia/version': '580.159.04\n',
  ...gpuFiles('0000:1b:00.0'),
  '/sys/devices/system/node/node0/meminfo': '',
  '/sys/devices/system/node/possible': '0',
  '/sys/class/infiniband/mlx5_0/ports/1/state': '4: ACTIVE\n',
  '/sys/class/infiniband/mlx5_0/ports/1/rate': '400 Gb/sec (4X NDR)\n',
  '/sys/class/infiniband/mlx5_0/ports/1/link_layer': 'InfiniBand\n',
  '/sys/class/infiniband/mlx5_0/device/numa_node': '0\n',
  '/dev/infiniband/uverbs0': '',
  '/proc/self/limits': limits('unlimited'),
  '/proc/self/mounts': 'proc /proc proc rw 0 0\ntmpfs /dev/shm tmpfs rw,size=8g,huge=within_size 0 0\n',
};

export function gpuFiles(
  address: string,
  changes: Readonly<Record<string, string>> = {},
): Record<string, string> {
  const files = {
    vendor: '0x10de',
    class: '0x030200',
    numa_node: '0',
    max_link_speed: '32.0 GT/s PCIe',
    current_link_speed: '2.5 GT/s PCIe',
    max_link_width: '16',
    current_link_width: '16',
    ...changes,
  };
  return Object.fromEntries(
    Object.entries(files).map(([name, text]) => [`/sys/bus/pci/devices/${address}/${name}`, `${text}\n`]),
  );
}

export function limits(locked: string): string {
  return `Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 1048576              files
Max locked memory         ${locked.padEnd(20)} ${locked.padEnd(20)} bytes
`;
}

/** The healthy machine with changed files (null: missing) and changed answers of its libraries. */
export function fakeHost(
  test: TestContext,
  files: Readonly<Record<string, string | null>> = {},
  answers: Partial<Host> = {},
): Host {
  const root = mkdtempSync(join(tmpdir(), 'weightcast-doctor-'));
  test.after(() => rmSync(root, { recursive: true }));
  for (const [path, text] of Object.entries({ ...healthy, ...files })) {
    if (text === null) continue;
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return {
    ...hostFiles(root),
    environment: {},
    space: () => ({ total: 8 * gibibyte, free: 6 * gibibyte }),
    probeCuda: () => ({
      version: '13.0',
      devices: [
        {
          uuid: 'GPU-27f19e7d-086d-a026-49b5-397c7a67c812',
          name: 'NVIDIA H100 80GB HBM3',
          totalBytes: 79.2 * gibibyte,
          pciAddress: '0000:1b:00.0',
        },
      ],
    }),
    ncclVersion: () => 23_007,
    loadError: () => null,
    ...answers,
  };
}

export function noLibrary(message: string): never {
  throw new NativeError(message);
}
