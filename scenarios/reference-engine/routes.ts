import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { type FastifyInstance, type FastifyReply, fastify } from 'fastify';
import { AbortedError, describe, EngineError } from '../../src/errors.ts';
import { completionBody } from './completions.ts';
import type { ReferenceEngine } from './engine.ts';
import { errorAnswer, RefusedRequest } from './http-errors.ts';
import { promptsIn, textOf, tokensOf } from './prompts.ts';
import { parseCollective, parseCompletion, parsePause } from './requests.ts';

/** The default and the maximum timeout of a call. */
const longestCallMilliseconds = 24 * 3_600_000;
const defaultWords = 16;
/** Largest request body, in bytes. */
const bodyLimit = 16 * 2 ** 20;

/** The HTTP API of the engine: vLLM's routes, including those of its development mode. */
export function createServer(engine: ReferenceEngine, model: string): FastifyInstance {
  const server = fastify({ bodyLimit, forceCloseConnections: true });
  // vLLM parses bodies as JSON whatever their content type; so each route parses its own body.
  server.removeAllContentTypeParsers();
  server.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => done(null, body));
  server.setErrorHandler((error, _request, reply) => {
    const { status, body } = errorAnswer(error);
    return reply.status(status).send(body);
  });
  server.setNotFoundHandler((_request, reply) => reply.status(404).send({ detail: 'Not Found' }));
  addInferenceRoutes(server, engine, model);
  addDevelopmentRoutes(server, engine);
  return server;
}

function addInferenceRoutes(server: FastifyInstance, engine: ReferenceEngine, model: string): void {
  const created = nowInSeconds();
  server.get('/health', (_request, reply) => reply.status(engine.workers.lost === null ? 200 : 503).send());

  server.get('/v1/models', () => ({
    object: 'list',
    data: [{ id: model, object: 'model', created, owned_by: 'weightcast', root: model, parent: null }],
  }));

  server.post('/v1/completions', async (request, reply) => {
    const wanted = parseCompletion(request.body);
    if (typeof wanted.model === 'string' && wanted.model !== model) {
      const refusal = { status: 404, param: 'model' } as const;
      throw new RefusedRequest(`The model \`${wanted.model}\` does not exist.`, refusal);
    }
    const length = wanted.max_tokens ?? defaultWords;
    const signal = disconnectSignal(reply);
    const completions = await Promise.all(
      promptsIn(wanted.prompt).map(async (prompt) => {
        const completion = await engine.complete(textOf(prompt), length, signal);
        if (typeof wanted.prompt_logprobs !== 'number') return completion;
        const tokens = typeof prompt === 'string' ? tokensOf(prompt) : prompt;
        return { ...completion, prompt: { tokens, logprobs: await engine.logprobs(tokens, signal) } };
      }),
    );
    return completionBody({ id: randomUUID(), model, completions, created: nowInSeconds() });
  });
}

function addDevelopmentRoutes(server: FastifyInstance, engine: ReferenceEngine): void {
  server.post('/collective_rpc', async (request) => {
    const { method, args, kwargs, timeout } = parseCollective(request.body);
    const milliseconds = Math.min((timeout ?? Number.POSITIVE_INFINITY) * 1_000, longestCallMilliseconds);
    try {
      if (Object.keys(kwargs ?? {}).length > 0)
        throw new EngineError('TypeError: no method takes keyword arguments');
      return { results: await engine.collectiveRpc(method, args ?? [], milliseconds) };
    } catch (error) {
      throw new EngineError(`Call to collective_rpc method failed: ${describe(error)}`, { cause: error });
    }
  });

  server.post('/pause', async (request) => {
    await engine.pause(parsePause(request.query).mode);
    return { status: 'paused' };
  });
  server.post('/resume', () => {
    engine.resume();
    return { status: 'resumed' };
  });
  server.get('/is_paused', () => ({ is_paused: engine.paused }));
  // There is no cache: a completion depends on prompt and weights only.
  server.post('/reset_prefix_cache', (_request, reply) => reply.status(200).send());
  server.get('/get_world_size', () => ({ world_size: engine.workers.workers.length }));
}

/** Aborts when the client disconnects before the response is complete. */
function disconnectSignal(reply: FastifyReply): AbortSignal {
  const disconnected = new AbortController();
  // Every prompt of a request adds a listener.
  setMaxListeners(0, disconnected.signal);
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) disconnected.abort(new AbortedError('the client has disconnected'));
  });
  return disconnected.signal;
}

function nowInSeconds(): number {
  return Math.floor(Date.now() / 1_000);
}
