import type { z } from 'zod';
import { ProtocolError } from '../../errors.ts';
import type { ActorRef, AskOptions } from '../kernel/index.ts';

interface Exchange {
  readonly type: string;
  readonly schema: z.ZodType;
  readonly reply: z.ZodType;
}

type Fields<E extends Exchange> = Omit<z.infer<E['schema']>, 'type'>;

interface Asker {
  ask(ref: ActorRef<never>, message: never, options: AskOptions): Promise<unknown>;
}

/** Asks with a message of a table in messages.ts; the answer is validated, since it may come from another process. */
export async function ask<E extends Exchange>(
  asker: Asker,
  ref: ActorRef<never>,
  exchange: E,
  fields: Fields<E>,
  options: AskOptions,
): Promise<z.infer<E['reply']>> {
  const answer = await asker.ask(ref, { type: exchange.type, ...fields } as never, options);
  const parsed = exchange.reply.safeParse(answer);
  if (parsed.success) return parsed.data as z.infer<E['reply']>;
  const [issue] = parsed.error.issues;
  throw new ProtocolError(
    `${ref.name} answered ${exchange.type} in a form that is not its own: ${issue?.path.join('.')}: ${issue?.message}`,
  );
}
