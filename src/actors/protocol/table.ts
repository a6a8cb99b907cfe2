import * as z from 'zod';
import type { Request } from '../kernel/index.ts';

/**
 * The messages that an actor accepts from other processes: one table per receiver, in a file of its own. A `request` is
 * answered, a `notice` is not. Messages and answers are validated on arrival.
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
/** The messages of a table, as their receiver gets them. */
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
