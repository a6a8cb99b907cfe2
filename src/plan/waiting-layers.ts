import { type Cuts, isKept } from '../checkpoint/cuts.ts';
import type { Manifest } from '../checkpoint/manifest.ts';
import { quoted } from '../checkpoint/printable.ts';
import { MemoryError } from '../errors.ts';
import { formatExactBytes } from '../units.ts';
import { alignUp } from './alignment.ts';
import { bucketTensors, type Plan, type PlanRank, slotMemory } from './plan.ts';

/**
 * What an engine worker copies out of the link buffer, because its layer is not whole when the bucket is answered: vLLM loads
 * and processes a layer when it has all of it, and keeps tensors until then as they came, whole, whatever part it will use. Of
 * experts it keeps none that are other workers'.
 */
export interface WaitingLayers {
  /** The most that waits at one time, in bytes of device memory. */
  readonly bytes: number;
  /** What of then is the largest: the path of its module, or that which it shares with others. */
  readonly layer: string;
}

/** The experts of a layer are one layer to vLLM. */
const EXPERTS = /^(.*\.experts)\./;
/** Of one parent, projections may be fused: q, k and v, gate and up. Which are, only the model knows. */
const PROJECTION = /^(.*\.)(?:[^.]*proj[^.]*|w\w{1,3}|query|key|value)\.[^.]+$/;
const MODULE = /^(.*)\.[^.]+$/;

/**
 * Computes it for a worker that keeps so much of each layer's experts, in (0, 1]. `cuts`: what its rank is sent, by the rows of
 * the manifest; parts wait as tensors of the whole's size.
 */
export function waitingLayers(
  plan: Plan,
  manifest: Manifest,
  experts: number,
  cuts: Cuts | null = null,
): WaitingLayers {
  const { names, bytes } = manifest;
  const layers = layersOf(names);
  const bucketCount = plan.owners.length;
  const last = new Int32Array(layers.paths.length).fill(-1);
  const total = new Float64Array(layers.paths.length);
  const isSent = (row: number) => cuts === null || isKept(cuts, row);
  for (let bucket = 0; bucket < bucketCount; bucket += 1)
    for (const row of bucketTensors(plan, bucket).rows) {
      if (!isSent(row)) continue;
      last[layers.of[row]!] = bucket;
      total[layers.of[row]!]! += alignUp(bytes[row]!);
    }
  const seen = new Float64Array(layers.paths.length);
  const held = (layer: number) =>
    layers.areExperts[layer] ? Math.min(seen[layer]!, total[layer]! * experts) : seen[layer]!;
  const open = new Set<number>();
  let most: WaitingLayers = { bytes: 0, layer: '' };
  for (let bucket = 0; bucket < bucketCount; bucket += 1) {
    for (const row of bucketTensors(plan, bucket).rows) {
      const layer = layers.of[row]!;
      if (!isSent(row) || last[layer]! === bucket) continue;
      seen[layer]! += alignUp(bytes[row]!);
      open.add(layer);
    }
    let sum = 0;
    let largest = -1;
    for (const layer of open) {
      if (last[layer]! <= bucket) {
        open.delete(layer);
        continue;
      }
      sum += held(layer);
      if (largest < 0 || held(layer) > held(largest)) largest = layer;
    }
    if (sum > most.bytes) most = { bytes: sum, layer: layers.paths[largest]! };
  }
  return most;
}

interface Layers {
  /** Of each name the index of its layer. */
  readonly of: Uint32Array;
  readonly paths: readonly string[];
  readonly areExperts: readonly boolean[];
}

const layersOfNames = new WeakMap<readonly string[], Layers>();

function layersOf(names: readonly string[]): Layers {
  const known = layersOfNames.get(names) ?? findLayers(names);
  layersOfNames.set(names, known);
  return known;
}

function findLayers(names: readonly string[]): Layers {
  const of = new Uint32Array(names.length);
  const paths: string[] = [];
  const areExperts: boolean[] = [];
  const known = new Map<string, number>();
  for (const [row, name] of names.entries()) {
    const experts = EXPERTS.exec(name)?.[1];
    const path = experts ?? PROJECTION.exec(name)?.[1] ?? MODULE.exec(name)?.[1] ?? name;
    let layer = known.get(path);
    if (layer === undefined) {
      layer = paths.push(path.replace(/\.$/, '')) - 1;
      areExperts.push(experts !== undefined);
      known.set(path, layer);
    }
    of[row] = layer;
  }
  return { of, paths, areExperts };
}

type Slots = Parameters<typeof slotMemory>[0];

/** By the share of experts that workers keep. */
export type WaitingByShare = ReadonlyMap<number, WaitingLayers>;

/** Of all shares that workers of these ranks keep. */
export function waitingOfRanks(plan: Plan, manifest: Manifest, ranks: readonly PlanRank[]): WaitingByShare {
  const shares = new Set(ranks.flatMap(({ waiting }) => waiting?.experts ?? []));
  return new Map([...shares].map((share) => [share, waitingLayers(plan, manifest, share)]));
}

/**
 * The first rank whose device has no room for the slots and for what its engine worker keeps waiting; null if all have it.
 * One whose worker keeps another share than was computed has none.
 */
export function rankWithoutRoom(
  slots: Slots,
  waiting: WaitingByShare,
  ranks: readonly PlanRank[],
  fraction: number,
): PlanRank | null {
  const lacks = ({ freeBytes, waiting: own }: PlanRank) => {
    if (own === undefined || own === null) return false;
    const { bytes } = waiting.get(own.experts) ?? { bytes: Number.POSITIVE_INFINITY };
    return slotMemory(slots) + bytes > Math.floor(freeBytes * fraction);
  };
  return ranks.find(lacks) ?? null;
}

/** Names layer, bytes and rank. */
export function noRoom(
  slots: Slots,
  { bytes, layer }: WaitingLayers,
  { rank, freeBytes }: PlanRank,
  fraction: number,
): MemoryError {
  return new MemoryError(
    `the engine worker of rank ${rank} keeps up to ${formatExactBytes(bytes)} of the weights until layer ${quoted(layer)} is whole, ` +
      `and an update takes ${formatExactBytes(slotMemory(slots))} beside; rank ${rank} has ${formatExactBytes(freeBytes)} ` +
      `of free device memory, of which an update may take ${formatExactBytes(Math.floor(freeBytes * fraction))}`,
  );
}
