import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** What processes and the machine hold, as the kernel counts it. */
export interface HostCensus {
  /** Open descriptors by process. */
  readonly descriptors: readonly number[];
  readonly threads: readonly number[];
  /** Pages of all processes that drivers have pinned. */
  readonly pinnedPages: number;
  /** In the folders of /dev/shm of which the processes have mapped anything: other clusters may be at work. */
  readonly sharedFiles: number;
  readonly sharedBytes: number;
}

export function hostCensus(pids: readonly number[]): HostCensus {
  const files = [...sharedFoldersOf(pids)].flatMap(filesIn);
  return {
    descriptors: pids.map((pid) => readdirSync(`/proc/${pid}/fd`).length),
    threads: pids.map((pid) => readdirSync(`/proc/${pid}/task`).length),
    pinnedPages: counter('nr_foll_pin_acquired') - counter('nr_foll_pin_released'),
    sharedFiles: files.length,
    sharedBytes: files.reduce((sum, path) => sum + statSync(path).blocks * 512, 0),
  };
}

export function parentOf(pid: number): number {
  return Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]);
}

function counter(name: string): number {
  return Number(new RegExp(`^${name} (\\d+)`, 'm').exec(readFileSync('/proc/vmstat', 'utf8'))?.[1] ?? 0);
}

function sharedFoldersOf(pids: readonly number[]): Set<string> {
  const maps = pids.map((pid) => readFileSync(`/proc/${pid}/maps`, 'utf8')).join('');
  return new Set([...maps.matchAll(/(\/dev\/shm\/[^/\n]+)\//g)].map(([, folder]) => folder!));
}

function filesIn(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    return entry.isDirectory() ? filesIn(path) : entry.isFile() ? [path] : [];
  });
}
