import * as z from 'zod';

/** Scalars and arrays that several message tables use. */

export const epoch = z.int().positive();
export const rank = z.int().min(0).max(65_535);
export const bytes = z.number().nonnegative().max(Number.MAX_SAFE_INTEGER);
/** It goes into messages and logs of one line, which show it as it is, and between processes, as UTF-8. */
export const name = z
  .string()
  .min(1)
  .max(256)
  .regex(
    /^[^\p{Cc}\p{Cs}\p{Bidi_Control}\u2028\u2029]*$/u,
    'it has characters that end lines, control terminals, turn the direction of writing, or are half a character',
  );
export const milliseconds = z.number().positive();
export const nothing = z.object({});
export const binary = z.custom<Uint8Array>((value) => value instanceof Uint8Array, 'expected bytes');
export const doubles = z.custom<Float64Array>(
  (value) => value instanceof Float64Array,
  'expected a Float64Array',
);
export const words = z.custom<Uint32Array>((value) => value instanceof Uint32Array, 'expected a Uint32Array');
export const shorts = z.custom<Uint16Array>(
  (value) => value instanceof Uint16Array,
  'expected a Uint16Array',
);
export const longs = z.custom<BigUint64Array>(
  (value) => value instanceof BigUint64Array,
  'expected a BigUint64Array',
);
/** `Cuts` of checkpoint/cuts.ts. */
export const cuts = z.object({ dims: binary, starts: words, lengths: words });
export const address = z.object({ node: z.string(), name: z.string(), generation: z.int() });
