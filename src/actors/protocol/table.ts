import { z } from 'zod';
import type { Request } from '../kernel/index.ts';

/**
 * What an actor takes from other processes: a table in a file of its own, one line per message. `request` names what
 * is answered and with what, `notice` what is not. Messages and answers are validated on arrival.
 */

export const request = <T extends string, F extends z.ZodRawShape, R extends z.ZodType>(
  type: T,
  fields: F,
  reply: R,
) => ({
  type,
  schema: z.object({ type: z.literal(type), ...fields }),
  reply,
});
export const notice = <T extends string, F extends z.ZodRawShape>(type: T, fields: F) =>
  request(type, fields, z.void());

export type Table = Readonly<Record<string, { readonly schema: z.ZodType; readonly reply: z.ZodType }>>;
/** What an actor that accepts a table receives. */
export type MessageIn<T extends Table> = {
  [K in keyof T]: z.infer<T[K]['schema']> & Request<z.infer<T[K]['reply']>>;
}[keyof T];

/** The schema of all messages of a table, for `SpawnOptions.accepts`. */
export function anyOf<T extends Table>(table: T): z.ZodType<MessageIn<T>> {
  const schemas = Object.values(table).map((entry) => entry.schema) as unknown as [
    z.ZodObject,
    ...z.ZodObject[],
  ];
  return z.discriminatedUnion('type', schemas) as unknown as z.ZodType<MessageIn<T>>;
}
