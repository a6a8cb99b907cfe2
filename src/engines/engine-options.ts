import { UsageError } from '../errors.ts';
import type { Clock, Logger } from '../ports.ts';
import { checkAddress } from './endpoint.ts';
import {
  type EngineClient,
  type EngineKind,
  engineKinds,
  engineOf,
  type LinkKind,
  linkKinds,
  type PauseOption,
  pauseModes,
} from './engine-client.ts';
import { LmdeployClient } from './lmdeploy.ts';
import { SglangClient } from './sglang.ts';
import { VllmClient } from './vllm.ts';

/** How to talk to one inference engine. */
export interface EngineOptions {
  /** `http://host:port`, `https://…`, with the prefix of a proxy, or `unix:/path/of/socket`. */
  readonly endpoint: string;
  /** Default: `vllm`. */
  readonly engine?: EngineKind;
  /**
   * Protocol of the engine's workers; see python/README.md. Default: `weightcast`, and for an LMDeploy, which has no other,
   * `checkpoint-engine`.
   */
  readonly link?: LinkKind;
  /** Sent as a bearer token. */
  readonly apiKey?: string;
  /**
   * How to pause the engine during an update. Default: it is not paused. It is resumed when the update has ended, unless
   * it failed after the weights had changed: then the engine stays paused rather than serve weights of two versions, and
   * the next successful update resumes it. One that answers otherwise than `verify.answers` expects is paused whatever this
   * is. `caller`: the caller pauses and resumes it; an update demands that it is paused.
   */
  readonly pause?: PauseOption;
  /**
   * Drop the caches after an update, because the old weights computed them: of prefixes, also in external stores, and of
   * multimodal inputs. If true, an engine that does not drop them is an error. Default: true with a pause that lets no
   * request live (`abort`, `wait`); otherwise they are dropped if no requests use them, and `InstanceReport.caches` says
   * whether they were: if they are kept, the engine may answer from the old weights' caches.
   */
  readonly resetCache?: boolean;
  /**
   * The engine has a draft model for speculative decoding that takes the weights in a second exchange, after the target
   * model: SGLang's do, and of a vLLM MTP layers with weightcast as its weight-transfer engine, and another model of the
   * target's form. A vLLM whose draft model takes none in that way is refused before its weights change. Default: false.
   */
  readonly hasDraftModel?: boolean;
}

/** Throws a `UsageError` that names the instance and the option. */
export function checkEngineOptions(name: string, options: EngineOptions): void {
  const { pause, resetCache = false } = options;
  const engine = engineOf(options);
  const refuse = (what: string) => new UsageError(`instance ${name}: ${what}`);
  const oneOf = (option: string, value: string, values: readonly string[]) => {
    if (!values.includes(value)) throw refuse(`${option} is "${value}"; it is one of ${values.join(', ')}`);
  };
  oneOf('engine', engine, engineKinds);
  const link = linkOf(options);
  oneOf('link', link, linkKinds);
  checkAddress(options.endpoint, options.apiKey);
  if (engine === 'lmdeploy') {
    if (link !== 'checkpoint-engine')
      throw refuse('link of lmdeploy is "checkpoint-engine": its workers have no other');
    if (options.hasDraftModel === true)
      throw refuse(
        'hasDraftModel is for engines that load the weights twice; an LMDeploy loads both models at once',
      );
    if (pause === undefined)
      throw refuse('pause of lmdeploy is one of abort, caller: it takes weights only while it sleeps');
  }
  if (pause === undefined) return;
  oneOf(`pause of ${engine}`, pause, [...pauseModes[engine], 'caller']);
  if (resetCache && (pause === 'keep' || pause === 'in_place' || pause === 'retract')) {
    const why =
      pause === 'retract'
        ? 'SGLang flushes its cache only when no request waits, and the retracted ones do'
        : 'the requests that are kept use the cache';
    throw refuse(`resetCache cannot be combined with pause "${pause}": ${why}`);
  }
}

/** What an engine's workers speak. */
export function linkOf({ engine, link }: Pick<EngineOptions, 'engine' | 'link'>): LinkKind {
  return link ?? (engine === 'lmdeploy' ? 'checkpoint-engine' : 'weightcast');
}

/** Throws `UsageError` for an invalid endpoint or API key. */
export function createEngineClient(options: EngineOptions, clock: Clock, log?: Logger): EngineClient {
  const { endpoint, apiKey, hasDraftModel = false } = options;
  const engine = engineOf(options);
  const http = {
    endpoint,
    clock,
    ...(apiKey !== undefined && { apiKey }),
    ...(log !== undefined && { log }),
  };
  if (engine === 'sglang') return new SglangClient({ ...http, link: linkOf(options), hasDraftModel });
  if (engine === 'lmdeploy') return new LmdeployClient(http);
  return new VllmClient({ ...http, link: linkOf(options), hasDraftModel });
}
