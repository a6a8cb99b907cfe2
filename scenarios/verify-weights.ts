import { request } from 'undici';
import { combineParts } from '../src/checkpoint/parts.ts';
import type { CheckpointIndex } from '../src/checkpoint/source.ts';
import { EngineError, VerificationError } from '../src/errors.ts';
import { digestTensors, Mapping, ThreadPool } from '../src/native-bridge/memory.ts';

/** What one worker of the reference engine reports to hold. */
interface HeldWeights {
  readonly names: readonly string[];
  /** Hexadecimal words. */
  readonly digests: readonly string[];
  readonly part: readonly number[];
  readonly parts: readonly number[];
}

/**
 * Compares the parameters of every worker of a reference engine with the files of a checkpoint. Neither side of the
 * comparison depends on the cluster that did the update. Throws `VerificationError` naming the tensor.
 */
export async function verifyWeights(endpoint: string, index: CheckpointIndex): Promise<void> {
  const workers = (await collectiveRpc(endpoint, 'weight_digests', [])) as HeldWeights[];
  const rowOf = new Map(index.names.map((name, row) => [name, row]));
  const reports = workers.map((held, rank) => {
    const report = {
      rank,
      digests: new BigUint64Array(index.names.length),
      part: new Uint16Array(index.names.length),
      parts: new Uint16Array(index.names.length),
    };
    for (const [at, name] of held.names.entries()) {
      const row = rowOf.get(name);
      if (row === undefined)
        throw new VerificationError(`worker ${rank} holds ${name}, which is not in the checkpoint`);
      report.digests[row] = BigInt(`0x${held.digests[at]}`);
      report.part[row] = held.part[at]!;
      report.parts[row] = held.parts[at]!;
    }
    return report;
  });
  const verdict = combineParts(reports, await digestFiles(index));
  const [first] = verdict.bad;
  if (first !== undefined) throw new VerificationError(`tensor ${index.names[first.row]} ${first.reason}`);
}

/** Calls a method on all workers of an engine; resolves with one result per worker. */
export async function collectiveRpc(
  endpoint: string,
  method: string,
  args: readonly unknown[],
): Promise<unknown[]> {
  const answer = await request(`${endpoint}/collective_rpc`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ method, args, timeout: 600 }),
    headersTimeout: 600_000,
    bodyTimeout: 600_000,
  });
  const text = await answer.body.text();
  if (answer.statusCode !== 200) throw new EngineError(`${method} of ${endpoint} failed: ${text}`);
  return (JSON.parse(text) as { results: unknown[] }).results;
}

async function digestFiles(index: CheckpointIndex): Promise<BigUint64Array> {
  const digests = new BigUint64Array(index.names.length);
  const pool = new ThreadPool(2);
  try {
    for (const [file, { path }] of index.files.entries()) {
      const rows = index.names.flatMap((_, row) => (index.fileOf[row] === file ? [row] : []));
      if (rows.length === 0) continue;
      const mapping = Mapping.open(path, false);
      const offsets = Float64Array.from(rows, (row) => index.offsets[row]!);
      const bytes = Float64Array.from(rows, (row) => index.bytes[row]!);
      const found = await digestTensors(pool, mapping, offsets, bytes);
      for (const [at, row] of rows.entries()) digests[row] = found[at]!;
      mapping.close();
    }
    return digests;
  } finally {
    pool.close();
  }
}
