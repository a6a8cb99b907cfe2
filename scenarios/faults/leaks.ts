import { setTimeout as sleep } from 'node:timers/promises';
import { type Census, commandOf, takeCensus } from './census.ts';
import type { FaultFleet } from './fleet.ts';

/** What a fleet holds when all is well, with which later censuses are compared. */
export interface Settled {
  readonly processes: number;
  readonly files: number;
  readonly bytes: number;
  /** Of each process when it was counted first. */
  readonly descriptors: Map<number, number>;
}

/** Connections that are kept for a while, and files of whatever is under way. */
const descriptorsInFlight = 24;
/** Cached documents. */
const filesInFlight = 8;
const bytesInFlight = 4 * 2 ** 20;
const settleMilliseconds = 8_000;
const pollMilliseconds = 100;

export async function settledFleet(fleet: FaultFleet): Promise<Settled> {
  await sleep(500);
  const { pids, files, bytes } = takeCensus(fleet.mark);
  return { processes: pids.length, files: files.length, bytes, descriptors: new Map() };
}

/** What is held beyond that once whatever ends has had time to. */
export async function leaksOf(fleet: FaultFleet, settled: Settled): Promise<string[]> {
  await fleet.owner.call('releaseSpareMemory').catch(() => {});
  const end = Date.now() + settleMilliseconds;
  let census = takeCensus(fleet.mark);
  while (beyond(census, settled).length > 0 && Date.now() < end) {
    await sleep(pollMilliseconds);
    census = takeCensus(fleet.mark);
  }
  const leaks = beyond(census, settled);
  for (const [pid, count] of census.descriptors)
    if (!settled.descriptors.has(pid)) settled.descriptors.set(pid, count);
  return leaks;
}

function beyond(census: Census, settled: Settled): string[] {
  const { pids, files, bytes, descriptors } = census;
  const leaks: string[] = [];
  if (pids.length > settled.processes)
    leaks.push(`${pids.length - settled.processes} processes too many: ${pids.map(commandOf).join('; ')}`);
  if (files.length > settled.files + filesInFlight)
    leaks.push(`${files.length - settled.files} files too many in /dev/shm`);
  if (bytes > settled.bytes + bytesInFlight)
    leaks.push(`${Math.round((bytes - settled.bytes) / 2 ** 20)} MiB too many in /dev/shm`);
  for (const [pid, count] of descriptors) {
    const first = settled.descriptors.get(pid) ?? count;
    if (count > first + descriptorsInFlight)
      leaks.push(`${count - first} descriptors too many in ${commandOf(pid)}`);
  }
  return leaks;
}
