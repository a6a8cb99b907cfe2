import { decode, encode } from '@msgpack/msgpack';
import * as z from 'zod';
import { bytesOfColumn, columnOfBytes } from '../checkpoint/columns.ts';
import { describe, ProtocolError } from '../errors.ts';
import type { Plan } from './plan.ts';
import { planDigest } from './plan-digest.ts';

const binary = z.instanceof(Uint8Array<ArrayBufferLike>);
const wholeNumber = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

/** Columns are the little-endian bytes of their typed arrays, as in a manifest. */
const encodedPlan = z.object({
  digest: z.string(),
  layout: z.string(),
  mode: z.enum(['pipelined', 'serial']),
  slots: wholeNumber,
  slotBytes: wholeNumber,
  largeSlotBytes: wholeNumber,
  ranks: binary,
  owners: binary,
  tensorStarts: binary,
  tensorOrder: binary,
  tensorOffsets: binary,
  bucketBytes: binary,
  cuts: z.object({ dims: binary, starts: binary, lengths: binary }).nullable(),
});

export function encodePlan({ cuts, ...plan }: Plan): Uint8Array {
  const encoded: z.infer<typeof encodedPlan> = {
    cuts: cuts && {
      dims: cuts.dims,
      starts: bytesOfColumn(cuts.starts),
      lengths: bytesOfColumn(cuts.lengths),
    },
    ...plan,
    ranks: bytesOfColumn(plan.ranks),
    owners: bytesOfColumn(plan.owners),
    tensorStarts: bytesOfColumn(plan.tensorStarts),
    tensorOrder: bytesOfColumn(plan.tensorOrder),
    tensorOffsets: bytesOfColumn(plan.tensorOffsets),
    bucketBytes: bytesOfColumn(plan.bucketBytes),
  };
  return encode(encoded);
}

/** The plan that {@link encodePlan} encoded. Throws a ProtocolError for anything that does not have the plan's digest. */
export function decodePlan(bytes: Uint8Array): Plan {
  const parsed = encodedPlan.safeParse(unpacked(bytes));
  if (!parsed.success) throw new ProtocolError(`not a plan: ${parsed.error.issues[0]!.path.join('.')}`);
  const { digest, ranks, owners, tensorStarts, tensorOrder, tensorOffsets, bucketBytes, cuts, ...facts } =
    parsed.data;
  const plan = {
    ...facts,
    ranks: columnOfBytes('plan', Uint32Array, ranks),
    owners: columnOfBytes('plan', Uint32Array, owners),
    tensorStarts: columnOfBytes('plan', Uint32Array, tensorStarts),
    tensorOrder: columnOfBytes('plan', Uint32Array, tensorOrder),
    tensorOffsets: columnOfBytes('plan', Float64Array, tensorOffsets),
    bucketBytes: columnOfBytes('plan', Float64Array, bucketBytes),
    cuts: cuts && {
      dims: columnOfBytes('plan', Uint8Array, cuts.dims),
      starts: columnOfBytes('plan', Uint32Array, cuts.starts),
      lengths: columnOfBytes('plan', Uint32Array, cuts.lengths),
    },
  };
  if (planDigest(plan) !== digest) throw new ProtocolError(`not the plan ${digest}`);
  return { digest, ...plan };
}

function unpacked(bytes: Uint8Array): unknown {
  try {
    return decode(bytes);
  } catch (error) {
    throw new ProtocolError(`not a plan: ${describe(error)}`);
  }
}
