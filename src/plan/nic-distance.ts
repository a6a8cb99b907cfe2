import { nicsOfRank, type RdmaPort } from './nic-selection.ts';

/** Where a device is in a machine. */
export interface PciPlace {
  /** The bridges down to it from the root complex, which comes first: `pci0000:16`, `0000:16:01.0`, `0000:17:00.0`. */
  readonly path: readonly string[];
  /** Null if the machine does not say. */
  readonly numaNode: number | null;
}

/** A port with where its device is; null if that cannot be told. */
export interface PlacedPort extends RdmaPort {
  readonly place: PciPlace | null;
  /** Gbit/s; null if the machine does not say. */
  readonly rate: number | null;
}

/** How bytes go between two devices, as NCCL and `nvidia-smi topo` call it, the nearest first. */
export const nearness = ['PIX', 'PXB', 'PHB', 'NODE', 'SYS'] as const;
export type Nearness = (typeof nearness)[number];

/**
 * `PIX`: through one PCIe bridge or switch; `PXB`: through several; `PHB`: through the root complex of a processor; `NODE`:
 * between root complexes of one NUMA node; `SYS`: between NUMA nodes, or nobody knows.
 */
export function nearnessOf(one: PciPlace | null, other: PciPlace | null): Nearness {
  if (one === null || other === null) return 'SYS';
  let common = 0;
  while (common < one.path.length && one.path[common] === other.path[common]) common += 1;
  if (common > 1) {
    // Each level of a switch is a bridge: one above its ports, and one for each of them.
    const below = Math.max(one.path.length, other.path.length) - common;
    return below <= 2 ? 'PIX' : 'PXB';
  }
  if (common === 1) return 'PHB';
  return one.numaNode !== null && one.numaNode === other.numaNode ? 'NODE' : 'SYS';
}

/**
 * The ports of one of a machine's GPUs: of those that are nearest to it its share among the GPUs that have the same
 * nearest ports, so that GPU n of a switch has port n of it, and rails stay rails. It depends on the machine alone, so that
 * ranks of several instances, or some of a machine's ranks, never get in each other's way.
 */
export function nicsOfGpu<Port extends PlacedPort>(
  ports: readonly Port[],
  gpus: readonly PciPlace[],
  gpu: number,
): readonly Port[] {
  const nearest = gpus.map((place) => nearestTo(place, ports));
  const own = nearest[gpu]!;
  const sharing = nearest.flatMap((others, index) => (isSame(own, others) ? [index] : []));
  return nicsOfRank({ ports: own, variable: null }, sharing.indexOf(gpu), sharing.length);
}

function nearestTo<Port extends PlacedPort>(gpu: PciPlace, ports: readonly Port[]): readonly Port[] {
  const distances = ports.map(({ place }) => nearness.indexOf(nearnessOf(gpu, place)));
  const least = Math.min(...distances);
  return ports.filter((_, index) => distances[index] === least);
}

function isSame<T>(one: readonly T[], other: readonly T[]): boolean {
  return one.length === other.length && one.every((item, index) => item === other[index]);
}

/** A port that is slower than the fastest by more than this serves something else: storage, or management. */
const slowest = 1 / 2;

/**
 * The ports that carry weights where nobody has named any: without those that are much slower than the fastest, and those of
 * the other kind of network than most. Those that are near to no GPU get none of them, see {@link nicsOfGpu}.
 */
export function withoutOthers<Port extends PlacedPort & { readonly linkLayer: string }>(
  ports: readonly Port[],
): readonly Port[] {
  const fastest = Math.max(0, ...ports.map(({ rate }) => rate ?? 0));
  const fast = ports.filter(({ rate }) => rate === null || rate >= fastest * slowest);
  const kinds = [...new Set(fast.map(({ linkLayer }) => linkLayer))];
  const speedOf = (kind: string) =>
    fast.reduce((sum, { linkLayer, rate }) => sum + (linkLayer === kind ? (rate ?? 1) : 0), 0);
  const [most] = kinds.sort((one, other) => speedOf(other) - speedOf(one));
  return fast.filter(({ linkLayer }) => linkLayer === most);
}
