import { statfsSync } from 'node:fs';
import { join } from 'node:path';
import type { CudaProbe } from '../native-bridge/addon.ts';
import { ncclVersion, probeCuda, whyNotLoaded } from '../native-bridge/probe.ts';
import { namesIn, textOf } from '../native-bridge/root-files.ts';

/** The machine that is examined. */
export interface Host {
  /** The folder that its paths lie in; empty for this machine. */
  readonly root: string;
  /** The trimmed text of a file such as `/sys/module/nvidia/version`; null if it cannot be read. */
  read(path: string): string | null;
  /** The sorted names in a directory; empty if it cannot be read. */
  list(path: string): string[];
  /** Size of the file system that contains a path, in bytes; null if the path does not exist. */
  space(path: string): { readonly total: number; readonly free: number } | null;
  /** The variables of this process. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** These three as in `native-bridge/probe.ts`. */
  probeCuda(): CudaProbe;
  ncclVersion(): number;
  loadError(library: string): string | null;
}

/** The files of a machine whose paths start with `root`; empty for this machine. */
export function hostFiles(root: string): Pick<Host, 'root' | 'read' | 'list' | 'space'> {
  return {
    root,
    read: (path) => textOf(root, path),
    list: (path) => namesIn(root, path),
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

export const thisHost: Host = {
  ...hostFiles(''),
  environment: process.env,
  probeCuda,
  ncclVersion,
  loadError: whyNotLoaded,
};

/** The NUMA nodes of the host. */
export function numaNodes(host: Host): string[] {
  return host.list('/sys/devices/system/node').filter((name) => /^node\d+$/.test(name));
}
