import { decode, encode } from '@msgpack/msgpack';
import * as z from 'zod';
import { bytesOfColumn, columnOfBytes } from '../../checkpoint/columns.ts';
import { describe, ProtocolError } from '../../errors.ts';
import type { ArrivedDigests, KeptParts, LiveDigests } from './worker-link.ts';

/**
 * The messages of weightcast's own worker link. Each is one ZeroMQ frame that holds one MessagePack map. The rank binds a
 * DEALER socket that speaks as a REQ socket (request-queue.ts), the worker connects a REP socket, or a ROUTER that speaks as one:
 *
 * | step | request of the rank | what it means |
 * |---|---|---|
 * | 1   | `{type: "open", protocol: 2, device: str, epoch: int, version: str, handle: bin, bytes: int, report: bool, installed?: bool, acceptUnproven?: bool, exchanges?: int, silenceSeconds?: num, parts?: bool, kept?: str}` | open the link buffer of `bytes` bytes; `version` is `checkpoint@digest`; `report`, `installed`: whether the reply to `finish` has one; `acceptUnproven`: load also into models that are not known to compute with what is loaded; `exchanges`: how often all of this is done in one update, once for each model that takes the weights apart; `silenceSeconds`: the worker waits at least as long for each further request; `parts`: record which part of each tensor the model reads; `kept`: parts follow, or whole tensors without some that the worker keeps nothing of, and this is the token of the record that says so: a worker that has another one refuses |
 * | 2…  | `{type: "load", tensors: [{name: str, dtype: str, shape: [int], offset: int, part?: [int, int, int]}]}` | copy these out of the link buffer; dtype as safetensors names it, offset in bytes from the start of the buffer; `part`: of the tensor only these indices are there, packed: dimension, start, length |
 * | n-1 | `{type: "release"}` | drop the link buffer; its memory is freed after the reply |
 * | n   | `{type: "finish", layouts?: [bin]}` | run the post-hook and report the digests of what arrived, and of what the model holds; `layouts`: those whose names the rank knows |
 * | any | `{type: "abort", reason: str}` | the update has failed; takes the place of any request |
 *
 * | reply of the worker | to |
 * |---|---|
 * | `{ok: true}` | load, release |
 * | `{ok: true, readsAhead?: bool, parts?: bool}` | open; `parts`: it records, or takes the parts that `kept` announced |
 * | `{ok: true, report: {digests: bin, part: bin, parts: bin} \| nil, installed?: …, kept?: …}` | finish: little-endian u64, u16 and u16, one each for every tensor in the order they were announced; nil if none was requested, or the worker computes none |
 * | `kept: {token: str, dims: bin, starts: bin, lengths: bin}` | what the model has read of each tensor, recorded in this exchange: u8, u32 and u32, one each in the order they were announced; dimension 255: all of it, length 0: nothing |
 * | `installed: {place: {str: str \| int}, coverage: str, layout: bin, digests: bin, names: [str] \| nil}` | of the live tensors: where the worker stands, `complete` or `unknown`, an id of the list of names, a u64 for each name, and the names unless the rank knows them |
 * | `{ok: false, error: str}` | any of them: a traceback. The worker then waits for `abort`, or for the rank to close |
 * | none; the worker closes its socket | abort, which the rank takes as the answer |
 *
 * The worker answers in order. To one that says `readsAhead` a `load` may be sent while answers to earlier ones are due, as
 * many as there are slots: it reads an abort before them, where others would load them all from a buffer that is about to be
 * freed. A worker that has failed answers them with its error, or hangs up. All other requests wait for the answers to those
 * before.
 *
 * An `abort` may arrive while a reply is due (the worker is still copying): the worker replies, then reads the abort before
 * or after the buckets that were announced ahead, and the rank drops stale replies. Receivers ignore unknown map keys. Versions that are one
 * apart understand each other; version 1 has no `installed`, `acceptUnproven` and `layouts`, and its workers want to hear
 * their own number.
 *
 * Numbers in columns are little-endian, as on every platform that the addon is built for. An update by parts is told apart by
 * `kept`; the report then has, of each tensor announced, the digest of the part at the word positions of the whole tensor, so
 * that digests of disjoint parts add up (native/memory/digest.h).
 */
export const protocolVersion = 2;

/** Whether this end can talk to one of that version. */
export function understands(version: number): boolean {
  return Math.abs(version - protocolVersion) <= 1;
}

/** For workers that cannot be asked for theirs. */
export const oldestProtocol = protocolVersion - 1;

const byteCount = z.int().nonnegative();
const binary = z.custom<Uint8Array>((value) => value instanceof Uint8Array, 'expected bytes');

const openRequest = z.object({
  type: z.literal('open'),
  protocol: z.int(),
  device: z.string(),
  epoch: z.int().nonnegative(),
  version: z.string(),
  handle: binary,
  bytes: byteCount,
  report: z.boolean(),
  installed: z.boolean().optional(),
  acceptUnproven: z.boolean().optional(),
  exchanges: z.int().positive().optional(),
  parts: z.boolean().optional(),
  kept: z.string().optional(),
  silenceSeconds: z.number().positive().optional(),
});
const loadRequest = z.object({
  type: z.literal('load'),
  tensors: z
    .array(
      z.object({
        name: z.string(),
        dtype: z.string(),
        shape: z.array(byteCount).readonly(),
        offset: byteCount,
        part: z.tuple([byteCount, byteCount, byteCount]).readonly().optional(),
      }),
    )
    .readonly(),
});
const linkRequest = z.discriminatedUnion('type', [
  openRequest,
  loadRequest,
  z.object({ type: z.literal('release') }),
  z.object({ type: z.literal('finish'), layouts: z.array(binary).readonly().optional() }),
  z.object({ type: z.literal('abort'), reason: z.string() }),
]);
export type LinkRequest = z.infer<typeof linkRequest>;
export type OpenRequest = z.infer<typeof openRequest>;

const wireReport = z.object({ digests: binary, part: binary, parts: binary });
const wireLive = z.object({
  place: z.record(z.string(), z.union([z.string(), z.number()])),
  coverage: z.enum(['complete', 'unknown']),
  layout: binary,
  digests: binary,
  names: z.array(z.string()).readonly().nullish(),
});
const wireKept = z.object({ token: z.string(), dims: binary, starts: binary, lengths: binary });
const wireReply = z.discriminatedUnion('ok', [
  z.object({
    ok: z.literal(true),
    readsAhead: z.boolean().optional(),
    parts: z.boolean().optional(),
    report: wireReport.nullish(),
    installed: wireLive.nullish(),
    kept: wireKept.nullish(),
  }),
  z.object({ ok: z.literal(false), error: z.string() }),
]);

export type LinkReply =
  | {
      readonly ok: true;
      readonly readsAhead?: boolean | undefined;
      readonly parts?: boolean | undefined;
      readonly report?: ArrivedDigests | null;
      readonly installed?: LiveDigests | null;
      readonly kept?: KeptParts | null;
    }
  | { readonly ok: false; readonly error: string };

export function encodeRequest(request: LinkRequest): Uint8Array {
  return encode(request);
}

/** Throws `ProtocolError`. */
export function decodeRequest(frame: Uint8Array): LinkRequest {
  return parse(frame, linkRequest, 'request');
}

export function encodeReply(reply: LinkReply): Uint8Array {
  if (!reply.ok) return encode(reply);
  const { report, installed, kept, ...flags } = reply;
  return encode({
    ...flags,
    ...(report !== undefined && { report: report && encodedReport(report) }),
    ...(installed !== undefined && { installed: installed && encodedLive(installed) }),
    ...(kept && { kept: encodedKept(kept) }),
  });
}

function encodedReport({ digests, part, parts }: ArrivedDigests): object {
  return { digests: bytesOfColumn(digests), part: bytesOfColumn(part), parts: bytesOfColumn(parts) };
}

function encodedKept({ token, cuts: { dims, starts, lengths } }: KeptParts): z.infer<typeof wireKept> {
  return { token, dims, starts: bytesOfColumn(starts), lengths: bytesOfColumn(lengths) };
}

function encodedLive({ layout, digests, ...live }: LiveDigests): object {
  return { ...live, layout: Buffer.from(layout, 'hex'), digests: bytesOfColumn(digests) };
}

/** Throws `ProtocolError`. */
export function decodeReply(frame: Uint8Array): LinkReply {
  const reply = parse(frame, wireReply, 'reply');
  if (!reply.ok) return reply;
  const { report, installed, kept, ...flags } = reply;
  return {
    ...flags,
    ...(report !== undefined && { report: report && decodeReport(report) }),
    ...(installed !== undefined && { installed: installed && decodeLive(installed) }),
    ...(kept && { kept: decodeKept(kept) }),
  };
}

/** Throws `ProtocolError`. */
export function decodeLive({ layout, digests, names, ...live }: z.infer<typeof wireLive>): LiveDigests {
  const rows = digests.byteLength / 8;
  if (!Number.isInteger(rows) || (names && names.length !== rows)) {
    const lengths = `${digests.byteLength} bytes of digests for ${names?.length ?? 'unnamed'} tensors`;
    throw new ProtocolError(`a report of live tensors has ${lengths}`);
  }
  return {
    ...live,
    layout: Buffer.from(layout).toString('hex'),
    digests: new BigUint64Array(new Uint8Array(digests).buffer),
    names: names ?? null,
  };
}

const survey = z.object({ protocol: z.int(), device: z.string(), models: z.array(wireLive) });

export function encodeSurvey(device: string, models: readonly LiveDigests[]): Uint8Array {
  return encode({ protocol: protocolVersion, device, models: models.map(encodedLive) });
}

/** What a worker says that was asked what it holds: one map `{protocol, device, models}`. Throws `ProtocolError`. */
export function decodeSurvey(frame: Uint8Array): LiveDigests[] {
  return parse(frame, survey, 'survey').models.map(decodeLive);
}

function decodeReport(wire: z.infer<typeof wireReport>): ArrivedDigests {
  const rows = wire.digests.byteLength / 8;
  if (!Number.isInteger(rows) || wire.part.byteLength !== rows * 2 || wire.parts.byteLength !== rows * 2) {
    const lengths = `${wire.digests.byteLength}, ${wire.part.byteLength} and ${wire.parts.byteLength}`;
    throw new ProtocolError(`the columns of a report have inconsistent lengths: ${lengths} bytes`);
  }
  // Copied, because a view of 64-bit words needs an aligned start; `slice` of a Buffer would be a view again.
  return {
    digests: new BigUint64Array(new Uint8Array(wire.digests).buffer),
    part: new Uint16Array(new Uint8Array(wire.part).buffer),
    parts: new Uint16Array(new Uint8Array(wire.parts).buffer),
  };
}

function decodeKept({ token, ...wire }: z.infer<typeof wireKept>): KeptParts {
  const what = 'list of kept parts';
  const dims = columnOfBytes(what, Uint8Array, wire.dims);
  const starts = columnOfBytes(what, Uint32Array, wire.starts);
  const lengths = columnOfBytes(what, Uint32Array, wire.lengths);
  if (starts.length !== dims.length || lengths.length !== dims.length) {
    const counts = `${dims.length}, ${starts.length} and ${lengths.length}`;
    throw new ProtocolError(`the columns of kept parts have inconsistent lengths: ${counts} tensors`);
  }
  return { token, cuts: { dims, starts, lengths } };
}

function parse<T extends z.ZodType>(
  frame: Uint8Array,
  schema: T,
  kind: 'request' | 'reply' | 'survey',
): z.infer<T> {
  let value: unknown;
  try {
    value = decode(frame);
  } catch (error) {
    throw new ProtocolError(`a worker-link ${kind} is not MessagePack: ${describe(error)}`, { cause: error });
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const where = issue === undefined || issue.path.length === 0 ? 'the message' : issue.path.join('.');
  throw new ProtocolError(`a worker-link ${kind} has the wrong form: ${where}: ${issue?.message}`);
}
