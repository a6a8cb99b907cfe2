import { mkdtempSync, rmSync } from 'node:fs';
import type { TestContext } from 'node:test';
import type { Collective } from '../../src/native-bridge/collective.ts';
import { CudaDevice } from '../../src/native-bridge/cuda-device.ts';
import type { Device } from '../../src/native-bridge/device.ts';
import { type CollectiveKind, Communicators } from '../../src/processes/communicators.ts';
import { sharedMemoryName } from '../shared-memory-name.ts';

/** Those of the members. */
export const ranks = [3, 5];

export interface Rank {
  readonly communicators: Communicators;
  readonly warnings: string[];
}

export function rankOn(
  t: TestContext,
  device: Device,
  directory: string,
  rank: number,
  preference: CollectiveKind | null = null,
): Rank {
  t.after(() => device.close());
  const warnings: string[] = [];
  const ignore = () => {};
  const log = {
    debug: ignore,
    info: ignore,
    error: ignore,
    warn: (fields: object, message: string) => warnings.push(`${message}: ${JSON.stringify(fields)}`),
  };
  return {
    communicators: new Communicators({
      device,
      directory,
      rank,
      preference,
      timeoutMilliseconds: 5_000,
      log,
    }),
    warnings,
  };
}

export function directoryOf(t: TestContext): string {
  const directory = mkdtempSync(`/dev/shm/${sharedMemoryName()}-`);
  t.after(() => rmSync(directory, { recursive: true }));
  return directory;
}

export function cudaRanks(t: TestContext, preference: CollectiveKind | null = null): Rank[] {
  const directory = directoryOf(t);
  return ranks.map((rank) =>
    rankOn(t, CudaDevice.open({ index: 0, pinThreads: 1 }), directory, rank, preference),
  );
}

export async function openAll(t: TestContext, all: readonly Rank[], id: Uint8Array): Promise<Collective[]> {
  const collectives = await Promise.all(
    all.map(({ communicators }) => communicators.open({ number: 7, id }, ranks)),
  );
  t.after(() => {
    for (const collective of collectives) collective.close();
  });
  return collectives;
}
