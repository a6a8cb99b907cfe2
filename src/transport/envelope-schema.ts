import * as z from 'zod';
import type { Envelope } from '../actors/kernel/transport.ts';
import { ProtocolError } from '../errors.ts';

const text = z.string();
const address = z.object({
  node: z.string().min(1).max(256),
  name: z.string().min(1).max(1_024),
  generation: z.int().nonnegative(),
});
const id = z.int().nonnegative();
/** Actors validate bodies. One that was `undefined` is not on the wire. */
const body = z.unknown().optional();
/** `instances` are reports, which nobody acts upon: they are for who asked for the update. */
const error = z.object({ code: text, message: text, instances: z.array(z.custom<never>()).optional() });

const schema = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('tell'), to: address, from: address.nullable(), body }),
  z.object({ kind: z.literal('ask'), to: address, from: address.nullable(), id, body }),
  z.object({ kind: z.literal('reply'), id, body }),
  z.object({ kind: z.literal('failure'), id, error }),
  z.object({ kind: z.enum(['watch', 'unwatch']), target: address, watcher: address }),
  z.object({ kind: z.literal('down'), target: address, watcher: address, reason: text }),
]);

/** Throws `ProtocolError` naming what is wrong unless `value` has the form of an envelope. */
export function parseEnvelope(value: unknown): Envelope {
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new ProtocolError(`an envelope with a wrong ${issue?.path.join('.') || 'form'}: ${issue?.message}`);
  }
  const envelope = parsed.data;
  if (envelope.kind !== 'tell' && envelope.kind !== 'ask' && envelope.kind !== 'reply') return envelope;
  return { ...envelope, body: envelope.body };
}
