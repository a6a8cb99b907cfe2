import { decode, encode } from '@msgpack/msgpack';
import * as z from 'zod';
import { bytesOfColumn } from '../checkpoint/columns.ts';
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
});

export function encodePlan(plan: Plan): Uint8Array {
  const encoded: z.infer<typeof encodedPlan> = {
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
  const { digest, ranks, owners, tensorStarts, tensorOrder, tensorOffsets, bucketBytes, ...facts } =
    parsed.data;
  const plan = {
    ...facts,
    ranks: column(Uint32Array, ranks),
    owners: column(Uint32Array, owners),
    tensorStarts: column(Uint32Array, tensorStarts),
    tensorOrder: column(Uint32Array, tensorOrder),
    tensorOffsets: column(Float64Array, tensorOffsets),
    bucketBytes: column(Float64Array, bucketBytes),
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

/** A copy: inside a message the bytes need not be aligned. */
function column<T>(
  type: { new (buffer: ArrayBuffer): T; readonly BYTES_PER_ELEMENT: number },
  bytes: Uint8Array,
): T {
  if (bytes.byteLength % type.BYTES_PER_ELEMENT !== 0) throw new ProtocolError('not a plan: half a number');
  return new type(Uint8Array.from(bytes).buffer);
}
