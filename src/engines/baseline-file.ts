import { writeFileSync } from 'node:fs';
import * as z from 'zod';
import { describe, UsageError } from '../errors.ts';
import { readText } from '../text-file.ts';
import type { BaselinePlace } from './baseline.ts';

const format = 'weightcast baseline 1';
const digest = /^[0-9a-f]{16}$/;

const contents = z.object({
  format: z.literal(format),
  places: z
    .array(
      z
        .object({
          place: z.record(z.string(), z.union([z.string(), z.number()])),
          layout: z.string(),
          tensors: z.array(z.tuple([z.string(), z.string().regex(digest)])),
          differing: z.array(z.string()),
        })
        .strict(),
    )
    .min(1),
});

/** One line for each tensor, so that two baselines can be compared by eye. */
export function writeBaseline(file: string, places: readonly BaselinePlace[]): void {
  const rows = places.map(({ place, layout, names, digests, differing }) => ({
    place,
    layout,
    tensors: names.map((name, row) => [name, digests[row]!.toString(16).padStart(16, '0')]),
    differing,
  }));
  writeFileSync(file, `${JSON.stringify({ format, places: rows }, null, 1)}\n`);
}

/** Throws a `UsageError` that names the file. */
export function readBaseline(file: string): BaselinePlace[] {
  let value: unknown;
  try {
    value = JSON.parse(readText(file));
  } catch (error) {
    throw new UsageError(`cannot read the baseline ${file}: ${describe(error)}`, { cause: error });
  }
  const parsed = contents.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const where = issue?.path.join('.') || 'the file';
    throw new UsageError(
      `${file} is no baseline that weightcast baseline has written: ${where}: ${issue?.message}`,
    );
  }
  return parsed.data.places.map(({ place, layout, tensors, differing }) => ({
    place,
    layout,
    names: tensors.map(([name]) => name),
    digests: BigUint64Array.from(tensors, ([, word]) => BigInt(`0x${word}`)),
    differing,
  }));
}
