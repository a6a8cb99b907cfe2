import { readdirSync, readFileSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import type { CudaProbe } from '../native-bridge/addon.ts';
import { ncclVersion, probeCuda, whyNotLoaded } from '../native-bridge/probe.ts';

/** Where the doctor looks. */
export interface Host {
  /** Text of a file such as `/sys/module/nvidia/version`, without the blanks around it; null if it cannot be read. */
  read(path: string): string | null;
  /** Names in a folder, sorted; none if it cannot be read. */
  list(path: string): string[];
  /** Bytes of the file system that a path is on; null if there is no such path. */
  space(path: string): { readonly total: number; readonly free: number } | null;
  /** As in `native-bridge/probe.ts`. */
  probeCuda(): CudaProbe;
  ncclVersion(): number;
  whyNotLoaded(library: string): string | null;
}

/** The files of a machine. `root` stands before their paths: empty for this one. */
export function hostFiles(root: string): Pick<Host, 'read' | 'list' | 'space'> {
  return {
    read(path) {
      try {
        return readFileSync(join(root, path), 'utf8').trim();
      } catch {
        return null;
      }
    },
    list(path) {
      try {
        return readdirSync(join(root, path)).sort();
      } catch {
        return [];
      }
    },
    space(path) {
      try {
        const { bsize, blocks, bavail } = statfsSync(join(root, path));
        return { total: bsize * blocks, free: bsize * bavail };
      } catch {
        return null;
      }
    },
  };
}

export const thisHost: Host = { ...hostFiles(''), probeCuda, ncclVersion, whyNotLoaded };

/** Memory nodes of the host. */
export function numaNodes(host: Host): string[] {
  return host.list('/sys/devices/system/node').filter((name) => /^node\d+$/.test(name));
}
