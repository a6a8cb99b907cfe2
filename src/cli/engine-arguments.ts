import { checkAddress } from '../engines/endpoint.ts';

/** The API key of the engine, which is no argument because other users of the machine could read it. */
export function apiKeyOf(): { readonly apiKey?: string } {
  const apiKey = process.env.WEIGHTCAST_ENGINE_API_KEY;
  return apiKey ? { apiKey } : {};
}

/** An `--endpoint` without slashes at its end. Throws `UsageError` for one that no engine can have. */
export function endpointOf(text: string): string {
  const endpoint = text.replace(/\/+$/, '');
  checkAddress(endpoint);
  return endpoint;
}
