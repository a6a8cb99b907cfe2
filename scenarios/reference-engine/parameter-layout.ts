import type { CheckpointIndex } from '../../src/checkpoint/source.ts';
import { describeTensors } from './model-tensors.ts';
import { type Place, type Shard, shardTensor } from './sharding.ts';

/** A parameter in the one device buffer that holds all parameters of a worker. */
export interface Parameter {
  readonly name: string;
  /** From the start of the buffer, a multiple of 256. */
  readonly offset: number;
  readonly bytes: number;
}

/** A tensor of the checkpoint and the part of it that this worker holds. */
export interface HeldTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
  readonly shard: Shard;
  /** Offset of the shard in the buffer. */
  readonly offset: number;
}

export interface ParameterLayout {
  readonly parameters: readonly Parameter[];
  /** By name, in the order of the checkpoint. */
  readonly tensors: ReadonlyMap<string, HeldTensor>;
  /** Of the buffer. */
  readonly bytes: number;
}

/** The alignment of GPU allocations. */
const alignment = 256;

/** Lays out the parameters of one worker: each starts aligned, and its shards follow each other without gaps. */
export function layOutParameters(index: CheckpointIndex, place: Place): ParameterLayout {
  const rows = describeTensors(index).map((tensor, row) => {
    const bytes = index.bytes[row]!;
    return { ...tensor, bytes, shard: shardTensor({ ...tensor, bytes }, place) };
  });
  const rowsOf = new Map<string, number[]>();
  for (const [row, { shard }] of rows.entries()) {
    const members = rowsOf.get(shard.parameter);
    if (members === undefined) rowsOf.set(shard.parameter, [row]);
    else members.push(row);
  }
  const offsets = new Float64Array(rows.length);
  const parameters: Parameter[] = [];
  let end = 0;
  for (const [name, members] of rowsOf) {
    const offset = Math.ceil(end / alignment) * alignment;
    end = offset;
    members.sort((a, b) => rows[a]!.shard.position - rows[b]!.shard.position);
    for (const row of members) {
      offsets[row] = end;
      end += shardBytes(rows[row]!.shard);
    }
    parameters.push({ name, offset, bytes: end - offset });
  }
  const tensors = rows.map((row, at) => [row.name, { ...row, offset: offsets[at]! }] as const);
  return { parameters, tensors: new Map(tensors), bytes: end };
}

export function shardBytes({ source }: Shard): number {
  return source.rowBytes * source.rows;
}
