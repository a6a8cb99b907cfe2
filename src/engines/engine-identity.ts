import { EngineError } from '../errors.ts';
import type { CallOptions, EngineKind } from './engine-client.ts';
import type { EngineHttp } from './engine-http.ts';

const nameOf = {
  vllm: 'a vLLM',
  sglang: 'an SGLang',
  lmdeploy: 'an LMDeploy',
} as const satisfies Record<EngineKind, string>;

/**
 * Rejects with `EngineError` if the engine says that it is of another kind: they name themselves as the owner of their
 * models (`owned_by` of `GET /v1/models`). With `missing`, the error of a health route that every engine of this kind has,
 * it rejects for any other owner too: whatever serves models there will not become one by waiting.
 */
export async function refuseOtherKind(
  http: EngineHttp,
  kind: EngineKind,
  options: CallOptions,
  missing: EngineError | null = null,
): Promise<void> {
  const models = await http.valueOf('/v1/models', 'data', options);
  const owner: unknown = Array.isArray(models) ? models[0]?.owned_by : null;
  if (typeof owner !== 'string' || owner === kind) return;
  if (Object.hasOwn(nameOf, owner)) {
    throw new EngineError(
      `engine ${http.endpoint} is ${nameOf[owner as EngineKind]}, not ${nameOf[kind]}: set engine "${owner}" (--engine ${owner})`,
    );
  }
  if (missing === null) return;
  throw new EngineError(
    `${missing.message}, and says that its models are owned by "${owner}": it is not ${nameOf[kind]} (engine, --engine)`,
    { cause: missing },
  );
}
