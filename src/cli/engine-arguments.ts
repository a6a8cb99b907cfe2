import { UsageError } from '../errors.ts';

/** The API key of the engine, which is no argument because other users of the machine could read it. */
export function apiKeyOf(): { readonly apiKey?: string } {
  const apiKey = process.env.WEIGHTCAST_ENGINE_API_KEY;
  return apiKey ? { apiKey } : {};
}

/** Throws `UsageError` unless `--endpoint` is a URL. */
export function endpointOf(text: string): string {
  if (!URL.canParse(text) || !['http:', 'https:', 'unix:'].includes(new URL(text).protocol)) {
    throw new UsageError(`--endpoint is "${text}"; it must be a URL, for example http://127.0.0.1:8000`);
  }
  return text.replace(/\/+$/, '');
}
