/** What the API calls otherwise than the command line does. */
const options: Readonly<Record<string, string>> = {
  acceptUnproven: '--accept-unproven',
  apiKey: 'WEIGHTCAST_ENGINE_API_KEY',
  bucketBytes: '--bucket',
  connectTimeoutMilliseconds: '--connect-timeout',
  fusedModules: '--fused',
  hasDraftModel: '--draft-model',
  listen: '--cluster-listen',
  memoryFraction: '--memory-fraction',
  parts: '--no-parts',
  readyTimeoutMilliseconds: '--ready-timeout',
  resetCache: '--reset-cache',
  resumeTimeoutMilliseconds: '--resume-timeout',
  stepTimeoutMilliseconds: '--step-timeout',
  timeoutMilliseconds: '--timeout',
  // As a daemon names them.
  accept_unproven: '--accept-unproven',
  api_key: 'WEIGHTCAST_ENGINE_API_KEY',
  bucket_bytes: '--bucket',
  connect_timeout_seconds: '--connect-timeout',
  fused_modules: '--fused',
  has_draft_model: '--draft-model',
  memory_fraction: '--memory-fraction',
  ready_timeout_seconds: '--ready-timeout',
  reset_cache: '--reset-cache',
  resume_timeout_seconds: '--resume-timeout',
  step_timeout_seconds: '--step-timeout',
  timeout_seconds: '--timeout',
};

/** A message about options of the API, with the names that the command line has for them. */
export function withOptionNames(message: string): string {
  // Only where a name stands for an option, at the start or after what introduces it: elsewhere it may be anyone's word.
  return message.replace(
    /(^\w+: invalid |^|; use |: )(\w+)(?=[\s:.,]|$)/g,
    (whole, before: string, name: string) => `${before}${options[name] ?? whole.slice(before.length)}`,
  );
}
