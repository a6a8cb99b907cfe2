import { UsageError } from '../errors.ts';

/** Of what clients and daemon say to each other. It grows when one of them would misunderstand the other. */
export const apiVersion = 2;
export const apiHeader = 'weightcast-api';

/** Clients one version apart work. Throws `UsageError` for others; a client that does not say is taken as it is. */
export function checkApiVersion(header: string | readonly string[] | undefined): void {
  if (header === undefined) return;
  const version = Number(header);
  if (!Number.isInteger(version) || Math.abs(version - apiVersion) > 1)
    throw new UsageError(
      `the client speaks version ${String(header).slice(0, 20)} of the API, the daemon ${apiVersion}; they may be one apart`,
    );
}
