import { UsageError } from '../errors.ts';

/** Linux allows no longer path for a socket. */
const longestSocketPath = 107;

/** Null unless the endpoint is `unix:/path/of/socket`. */
export function socketPathOf(endpoint: string): string | null {
  return /^unix:(.+)$/.exec(endpoint)?.[1] ?? null;
}

/** Throws a UsageError for an invalid endpoint or API key. Neither a password nor a key is in it. */
export function checkAddress(endpoint: string, apiKey?: string): void {
  // The characters that a header can carry.
  if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey))
    throw new UsageError('the API key contains characters other than printable ASCII without spaces');
  const socketPath = socketPathOf(endpoint);
  if (socketPath !== null) {
    if (Buffer.byteLength(socketPath) <= longestSocketPath && !socketPath.includes('\0')) return;
    throw new UsageError(`invalid endpoint: a socket's path has at most ${longestSocketPath} bytes`);
  }
  const url = URL.canParse(endpoint) ? new URL(endpoint) : null;
  if (url !== null && (url.username !== '' || url.password !== ''))
    throw new UsageError(
      `invalid endpoint at ${url.host}: a user and a password in it are not sent; use apiKey`,
    );
  const isBase =
    url !== null &&
    // A URL leaves out white space, takes a backslash for a slash, and "a/.." for nothing: then the endpoint is not what it
    // looks like.
    /^[\x21-\x5b\x5d-\x7e]+$/.test(endpoint) &&
    /^https?:$/.test(url.protocol) &&
    (endpoint.replace(/^[^/]*\/\/[^/]*/, '') || '/') === url.pathname &&
    !url.pathname.includes('//') &&
    url.search === '' &&
    url.hash === '';
  const which = `invalid endpoint "${endpoint}"`;
  if (!isBase)
    throw new UsageError(`${which}: use http://host:port, http://host/prefix of a proxy, or unix:/path`);
  // Of OpenAI's clients. The routes that update an engine are beside it.
  if (/\/v1\/?$/.test(url.pathname)) throw new UsageError(`${which}: leave the /v1 at its end out`);
}

/** Where requests go: the origin of the endpoint, and what stands before each route's path. */
export function baseOf(endpoint: string): { readonly origin: string; readonly prefix: string } {
  if (socketPathOf(endpoint) !== null) return { origin: 'http://localhost', prefix: '' };
  const { origin, pathname } = new URL(endpoint);
  return { origin, prefix: pathname.replace(/\/$/, '') };
}
