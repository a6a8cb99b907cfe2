import * as z from 'zod';
import { quoted } from '../checkpoint/printable.ts';
import { describe, UsageError } from '../errors.ts';
import { issueOf } from '../schema-issue.ts';
import { readText } from '../text-file.ts';
import { keyBytes, type SpokeKeys } from '../transport/curve.ts';

/**
 * By what the agent of a host becomes a member of a cluster: one line of JSON, in a file or on standard input. It holds the
 * host's secret key, so it is for its owner only, and never on a command line. It is valid as long as the cluster lives.
 */

export const joinFormat = 'weightcast-join-1';

const key = z.string().refine((text) => {
  try {
    return keyBytes(text).length > 0;
  } catch {
    return false;
  }
}, 'it is not a key');

/** Names as POSIX has them; what a shell exports otherwise is no variable to programs. */
export const environment = z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), z.string());

const joinDocument = z.object({
  format: z.literal(joinFormat),
  host: z.string().min(1),
  /** The hub's. */
  endpoint: z.string().min(1),
  hubPublicKey: key,
  /** The host's own pair. */
  publicKey: key,
  secretKey: key,
  /** Of the host's segments, in /dev/shm. */
  directory: z.string().regex(/^\/dev\/shm\/weightcast-[A-Za-z0-9._-]+$/),
  startTimeoutMilliseconds: z.int().positive(),
  stopTimeoutMilliseconds: z.int().positive(),
  orphanTimeoutMilliseconds: z.int().positive(),
  /** Variables of ranks: below those that the agent was started with, and above them. */
  inherited: environment,
  environment,
});
export type JoinDocument = z.infer<typeof joinDocument>;

export function joinText(document: JoinDocument): string {
  return `${JSON.stringify(document)}\n`;
}

/** `source`: where the text is from, for the error. Throws `UsageError`, which quotes nothing: it may be a secret. */
export function parseJoinText(text: string, source: string): JoinDocument {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new UsageError(`${source} is not a join file: it is not JSON`);
  }
  const parsed = joinDocument.safeParse(value);
  if (parsed.success) return parsed.data;
  const { path, message } = issueOf(parsed.error);
  throw new UsageError(
    `${source} is not a join file of this version: ${path.join('.') || 'its content'}: ${message}`,
  );
}

/** Throws `UsageError`. */
export function readJoinFile(path: string): JoinDocument {
  let text: string;
  try {
    text = readText(path === '-' ? 0 : path);
  } catch (error) {
    throw new UsageError(`the join file ${quoted(path)} cannot be read: ${describe(error)}`);
  }
  return parseJoinText(text, path === '-' ? 'standard input' : quoted(path));
}

export function keysOf({ hubPublicKey, publicKey, secretKey }: JoinDocument): SpokeKeys {
  return { hub: { publicKey: hubPublicKey }, spoke: { publicKey, secretKey } };
}

/** For one process, or secret. */
const notInherited = /^WEIGHTCAST_(FAULTS|JOIN|PROCESS|SOCKET|DEVICE_UUID)$|KEY|TOKEN|SECRET|PASSWORD/;

/** What of an environment matters to ranks, wherever they are. */
export function inheritedVariables(variables: NodeJS.ProcessEnv): Record<string, string> {
  const matters = (name: string) => /^(WEIGHTCAST|NCCL|PS)_\w+$/.test(name) && !notInherited.test(name);
  return Object.fromEntries(
    Object.entries(variables).flatMap(([name, value]) =>
      value !== undefined && matters(name) ? [[name, value] as const] : [],
    ),
  );
}
