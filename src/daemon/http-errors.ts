import { asFailure, toWire, UsageError, type WeightcastError, type WireError } from '../errors.ts';
import { instanceBody } from './instance-schema.ts';
import { proofs, registerBody, updateBody } from './schemas.ts';
import { fromWireName } from './wire-names.ts';

/** By code; others are 500. Deadlines of engines, memory of devices and so on are nothing that the client did wrong. */
const statuses: Readonly<Record<string, number>> = {
  WEIGHTCAST_USAGE: 400,
  WEIGHTCAST_CHECKPOINT: 400,
  WEIGHTCAST_ACCESS: 403,
  WEIGHTCAST_NOT_FOUND: 404,
  WEIGHTCAST_BUSY: 409,
  WEIGHTCAST_OVERLOADED: 429,
  WEIGHTCAST_ENGINE: 502,
  WEIGHTCAST_WORKER_LINK: 502,
  WEIGHTCAST_NOT_READY: 503,
  WEIGHTCAST_PEER_LOST: 503,
  WEIGHTCAST_ABORTED: 503,
  WEIGHTCAST_DEADLINE: 504,
  WEIGHTCAST_MEMORY: 507,
  WEIGHTCAST_OUT_OF_DEVICE_MEMORY: 507,
  WEIGHTCAST_OUT_OF_HOST_MEMORY: 507,
};

/** Of fastify, where its own words name nothing, or repeat all that was sent. */
const refusals: ReadonlyMap<string, string> = new Map([
  [
    'FST_ERR_CTP_INVALID_MEDIA_TYPE',
    'a body is JSON: send it with the header content-type: application/json',
  ],
  ['FST_ERR_CTP_BODY_TOO_LARGE', 'the body of the request is too large'],
  ['FST_ERR_MAX_PARAM_LENGTH', 'a part of the path of the request is too long'],
]);

/** What may succeed a moment later as it is. */
const retried = new Set([
  'WEIGHTCAST_BUSY',
  'WEIGHTCAST_OVERLOADED',
  'WEIGHTCAST_NOT_READY',
  'WEIGHTCAST_PEER_LOST',
]);

export interface HttpFailure {
  readonly status: number;
  readonly body: {
    readonly error: WireError & { readonly retry: boolean };
  };
}

/** Any thrown value as an answer. */
export function toHttp(thrown: unknown): HttpFailure {
  const { error, status } = classified(thrown);
  const { code, instances } = toWire(error);
  const line = error.message.split('\n').join(' ');
  // Of a body that has not the form of the API, the schema has named the fields.
  const isOfForm = (thrown as { validationContext?: string }).validationContext !== undefined;
  const message = isOfForm ? line : withFieldNames(line);
  const retry = retried.has(code);
  // Names of fields are those of TypeScript only where they have one word.
  return { status, body: { error: { code, message, retry, ...(instances && { instances }) } } };
}

function classified(thrown: unknown): { readonly error: WeightcastError; readonly status: number } {
  // What fastify refuses before a handler is called: no JSON, too large, another media type.
  const { statusCode, code } = thrown as { statusCode?: unknown; code?: unknown };
  const isRefusal = typeof code === 'string' && code.startsWith('FST_');
  if (isRefusal && typeof statusCode === 'number' && statusCode < 500)
    return { error: new UsageError(refusals.get(code) ?? (thrown as Error).message), status: statusCode };
  if (thrown instanceof SyntaxError)
    return { error: new UsageError(`the body is not JSON: ${thrown.message}`), status: 400 };
  const error = asFailure(thrown);
  return { error, status: statuses[error.code] ?? 500 };
}

/** The fields of bodies that have other names in TypeScript. */
const fields = new Map(
  [registerBody, instanceBody, updateBody, proofs].flatMap((body) =>
    Object.keys(body.shape).flatMap((field) => {
      const name = fromWireName(field).replace('Seconds', 'Milliseconds');
      return name === field ? [] : [[name, field] as const];
    }),
  ),
);

/** A message of what lies below, which calls options by their names there, as the client knows them. */
function withFieldNames(message: string): string {
  return message.replace(/(?<![\w/.-])[a-z]+[A-Z]\w*(?![\w/-])/g, (word) => fields.get(word) ?? word);
}
