import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from 'fastify';
import type * as z from 'zod';
import { AccessError, NotFoundError, UsageError } from '../errors.ts';
import type { Logger } from '../ports.ts';
import { issueOf } from '../schema-issue.ts';
import { apiHeader, apiVersion, checkApiVersion } from './api-version.ts';
import { toHttp } from './http-errors.ts';
import { openApiOf } from './openapi.ts';
import { refuseMalformed } from './raw-answers.ts';
import { type Route, route } from './route.ts';

/** A list of 10,000 files fits; nothing else is long. */
const mostBodyBytes = 4 << 20;
/**
 * A request has to arrive within the first time, and its headers within the second: by being slow nobody keeps others from
 * asking, least of all who has no token. Its answer may take as long as it takes.
 */
export const arrivalLimits = {
  requestTimeout: 60_000,
  headersTimeout: 10_000,
  connectionsCheckingInterval: 2_000,
} as const;
/** Names of 256 characters, each up to twelve when it is encoded. */
const longestParameter = 4_096;

export interface ServerOptions {
  readonly routes: readonly Route[];
  readonly version: string;
  /** What a request has to bring: null for none. */
  readonly tokenFor: (request: IncomingMessage) => string | null;
  /** Is told when all of a request has arrived, and it is about to be done. */
  readonly onWork: (request: IncomingMessage, response: ServerResponse) => void;
  readonly log: Logger;
}

/** The routes as a server that does not listen yet. */
export function createServer({ routes, version, tokenFor, onWork, log }: ServerOptions): FastifyInstance {
  const server = fastify({
    bodyLimit: mostBodyBytes,
    forceCloseConnections: true,
    requestTimeout: arrivalLimits.requestTimeout,
    http: arrivalLimits,
    clientErrorHandler: refuseMalformed,
    exposeHeadRoutes: false,
    // What is no URL comes to no route, and so past the hooks and the error handler of routes.
    frameworkErrors: (error, request, reply) => void answerFailure(error, request, reply, log),
    routerOptions: { maxParamLength: longestParameter },
  });
  const all: readonly Route[] = [...routes, documentRoute(() => openApiOf(all, version))];
  const openPaths = new Set(all.filter(({ open }) => open).map(({ path }) => path));
  server.setValidatorCompiler(
    ({ schema }) =>
      (data) =>
        validated(schema as unknown as z.ZodType, data),
  );
  const parse = server.getDefaultJsonParser('error', 'error');
  // Many clients name the type of all that they post, also where there is nothing: FastAPI's servers take that.
  server.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) =>
    body === '' ? done(null, undefined) : parse(request, body as string, done),
  );
  server.setErrorHandler((error, request, reply) => answerFailure(error, request, reply, log));
  server.setNotFoundHandler((request, reply) =>
    answerFailure(
      new NotFoundError(`there is no route ${request.method} ${pathOf(request)}`),
      request,
      reply,
      log,
    ),
  );
  server.addHook('onRequest', async (request, reply) => {
    reply.header(apiHeader, String(apiVersion));
    const token = tokenFor(request.raw);
    if (token !== null && !openPaths.has(pathOf(request)) && !isAuthorized(request, token)) {
      reply.header('www-authenticate', 'Bearer');
      await reply.code(401).send(toHttp(new AccessError('the request has no token, or a wrong one')).body);
      return reply;
    }
    checkApiVersion(request.headers[apiHeader]);
    return undefined;
  });
  server.addHook('preValidation', async (request, reply) => onWork(request.raw, reply.raw));
  for (const one of all) addRoute(server, one);
  return server;
}

function addRoute(server: FastifyInstance, { method, path, body, status, answer, handle }: Route): void {
  const streams = answer === 'text/event-stream';
  server.route({
    method,
    url: path.replace(/\{(\w+)\}/g, ':$1'),
    ...(body && { schema: { body } }),
    handler: async (request, reply) => {
      if (status !== undefined) reply.code(status);
      const params = request.params as Record<string, string>;
      const result = await handle({ body: request.body as never, params, request, reply });
      if (streams) return reply.hijack();
      return result;
    },
  });
}

function documentRoute(document: () => object): Route {
  let text: string | null = null;
  return route({
    method: 'GET',
    path: '/openapi.json',
    summary: 'This document.',
    answer: 'application/json',
    handle: ({ reply }) => {
      text ??= JSON.stringify(document());
      reply.header('content-type', 'application/json');
      return text;
    },
  });
}

/** One line that names the field. A body's values are not repeated: one of them may be a secret. */
function validated(schema: z.ZodType, data: unknown): { value: unknown } | { error: Error } {
  const parsed = schema.safeParse(data ?? {});
  if (parsed.success) return { value: parsed.data };
  const { path, message } = issueOf(parsed.error);
  return { error: new UsageError(path.length === 0 ? message : `${path.join('.')}: ${message}`) };
}

function answerFailure(
  thrown: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
  log: Logger,
): FastifyReply {
  const { status, body } = toHttp(thrown);
  const { code, message } = body.error;
  if (status >= 500) log.warn({ code, status }, `${request.method} ${pathOf(request)}: ${message}`);
  if (status === 503 || status === 429) reply.header('retry-after', '1');
  return reply.code(status).send(body);
}

function pathOf({ url }: FastifyRequest): string {
  return url.split('?', 1)[0]!;
}

function isAuthorized({ headers }: FastifyRequest, token: string): boolean {
  const given = /^Bearer (.+)$/i.exec(headers.authorization ?? '')?.[1] ?? '';
  // Digests have one length, and their comparison takes one time.
  return timingSafeEqual(digestOf(given), digestOf(token));
}

function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
