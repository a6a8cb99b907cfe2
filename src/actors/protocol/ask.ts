import type * as z from 'zod';
import { ProtocolError } from '../../errors.ts';
import type { ActorRef, AskOptions, Context, Request } from '../kernel/index.ts';

export interface Exchange {
  readonly type: string;
  readonly schema: z.ZodType;
  readonly reply: z.ZodType;
}

/** The message of one exchange, as its receiver declares it. */
export type Question<E extends Exchange> = z.infer<E['schema']> & Request<z.infer<E['reply']>>;

/**
 * Asks a receiver with a message of its table. The answer may come from another process and is validated: rejects with
 * `ProtocolError` if it is malformed, and as `Context.ask` does.
 */
export async function ask<E extends Exchange>(
  asker: Pick<Context<never>, 'ask'>,
  ref: ActorRef<Question<E>>,
  exchange: E,
  fields: Omit<z.infer<E['schema']>, 'type'>,
  options: AskOptions,
): Promise<z.infer<E['reply']>> {
  const question = { type: exchange.type, ...fields } as unknown as Question<E>;
  const answer = await asker.ask(ref, question, options);
  const parsed = exchange.reply.safeParse(answer);
  if (parsed.success) return parsed.data as z.infer<E['reply']>;
  const [issue] = parsed.error.issues;
  throw new ProtocolError(
    `${ref.name} sent a malformed reply to ${exchange.type}: ${issue?.path.join('.')}: ${issue?.message}`,
  );
}
