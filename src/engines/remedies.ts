import type { EngineKind } from './engine-client.ts';

/** What people can do to an engine by hand, as error messages tell them. */
export interface Engine {
  readonly engine: EngineKind;
  readonly endpoint: string;
}

/** What brings the memory of a sleeping engine back. */
const wakeRoutes: Record<EngineKind, string> = {
  vllm: '/wake_up',
  sglang: '/resume_memory_occupation',
  lmdeploy: '/wakeup',
};

export function wakeUp({ engine }: Engine): string {
  return `wake it up before an update (POST ${wakeRoutes[engine]})`;
}

/** The routes that drop what old weights computed. */
const cacheRoutes: Record<EngineKind, string> = {
  vllm: 'POST /reset_prefix_cache',
  sglang: 'POST /hicache/storage-backend/clear',
  lmdeploy: 'POST /sleep and POST /wakeup',
};

export function dropCaches({ engine, endpoint }: Engine): string {
  return `${cacheRoutes[engine]} to ${endpoint}`;
}

/** The command that resumes it. */
export function resumeCommand({ engine, endpoint }: Engine): string {
  const kind = engine === 'vllm' ? '' : ` --engine ${engine}`;
  return `weightcast resume --endpoint ${endpoint}${kind}`;
}
