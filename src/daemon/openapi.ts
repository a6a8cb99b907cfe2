import * as z from 'zod';
import { apiHeader } from './api-version.ts';
import type { Route } from './route.ts';
import { errorAnswer } from './schemas.ts';

/** The OpenAPI document of these routes, by the schemas that check their bodies. */
export function openApiOf(routes: readonly Route[], version: string): object {
  const paths: Record<string, Record<string, object>> = {};
  for (const one of routes) {
    paths[one.path] ??= {};
    paths[one.path]![one.method.toLowerCase()] = operationOf(one);
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'weightcast',
      version,
      description: `Clients may send their version of this API as the header ${apiHeader}; one version apart works.`,
    },
    components: {
      schemas: { Error: jsonSchema(errorAnswer, 'output') },
      securitySchemes: { token: { type: 'http', scheme: 'bearer' } },
    },
    security: [{ token: [] }, {}],
    paths,
  };
}

function operationOf({ path, summary, body, answer, status = 200, open }: Route): object {
  const names = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name!);
  return {
    summary,
    ...(open && { security: [] }),
    ...(names.length > 0 && {
      parameters: names.map((name) => ({ name, in: 'path', required: true, schema: { type: 'string' } })),
    }),
    ...(body && { requestBody: { required: true, content: json(jsonSchema(body, 'input')) } }),
    responses: {
      [status]: {
        description: 'Done.',
        content: typeof answer === 'string' ? { [answer]: {} } : json(jsonSchema(answer, 'output')),
      },
      default: { description: 'Failed.', content: json({ $ref: '#/components/schemas/Error' }) },
    },
  };
}

function json(schema: object): object {
  return { 'application/json': { schema } };
}

function jsonSchema(schema: z.ZodType, io: 'input' | 'output'): object {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io });
  return rest;
}
