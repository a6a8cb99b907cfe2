import type { FastifyReply, FastifyRequest } from 'fastify';
import type * as z from 'zod';

/** What a handler gets: the checked body, and the parts of the path. */
export interface Call<B> {
  readonly body: B;
  readonly params: Readonly<Record<string, string>>;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
}

/** One route: what fastify is told of it, and what the OpenAPI document says. */
export interface Route<B = never> {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** With `{name}` for a part that is given. */
  readonly path: string;
  readonly summary: string;
  readonly body?: z.ZodType<B>;
  /** Of a successful answer: a schema of JSON, or the media type of a text. */
  readonly answer: z.ZodType | string;
  /** Default: 200. */
  readonly status?: number;
  /** Needs no token. */
  readonly open?: true;
  /** Resolves with the answer, or answers by `reply`. */
  readonly handle: (call: Call<B>) => unknown;
}

/** Binds the type of a body to its schema. */
export function route<B>(one: Route<B>): Route {
  return one as unknown as Route;
}
