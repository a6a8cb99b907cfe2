import * as z from 'zod';
import { UsageError } from '../errors.ts';
import { issueOf } from '../schema-issue.ts';

/** The forms of what callers pass, who may write JavaScript or read options from a file. */

/** Throws a UsageError that names the value and the option in it that is wrong. */
export function checkForm(what: string, schema: z.ZodType, value: unknown): void {
  const parsed = schema.safeParse(value);
  if (parsed.success) return;
  const issue = issueOf(parsed.error);
  const path = issue.path.map(String).join('.');
  throw new UsageError(`${what}: ${path === '' ? '' : `invalid ${path}: `}${issue.message}`);
}

/** Longer ones are none. */
const longestMilliseconds = 365 * 24 * 3_600_000;
export const wait = z.number().positive().max(longestMilliseconds);

const strings = z.array(z.string());

export const updateOptions = {
  instances: strings.optional(),
  bucketBytes: z.number().optional(),
  fusedModules: z.array(strings).optional(),
  memoryFraction: z.number().optional(),
  verify: z.union([z.boolean(), z.looseObject({})], 'it must be true, false, or what to prove').optional(),
  acceptUnproven: z.boolean().optional(),
  atomic: z.boolean().optional(),
  heal: z.boolean().optional(),
  keepCopy: z.boolean().optional(),
  parts: z.boolean().optional(),
  timeoutMilliseconds: wait.optional(),
  stepTimeoutMilliseconds: wait.optional(),
  connectTimeoutMilliseconds: wait.optional(),
  readyTimeoutMilliseconds: wait.optional(),
  resumeTimeoutMilliseconds: wait.optional(),
  signal: z.instanceof(AbortSignal).optional(),
};

export const registerOptions = z.strictObject({ hosts: strings.min(1).optional() });

const tensor = z.object({
  dtype: z.string(),
  shape: z.array(z.int().min(0)),
  data: z.custom<ArrayBufferView>(
    (value) => ArrayBuffer.isView(value),
    'expected a view of bytes, such as a Uint8Array',
  ),
});

export const source = z.union(
  [
    z.string().min(1),
    strings,
    z.strictObject({ tensors: z.record(z.string(), tensor) }),
    z.strictObject({ metas: z.string().min(1) }),
  ],
  'expected a path, a list of files, { tensors }, or { metas: file }',
);
