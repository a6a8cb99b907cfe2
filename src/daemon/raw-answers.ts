import type { Duplex } from 'node:stream';
import { UsageError, type WeightcastError } from '../errors.ts';
import { toHttp } from './http-errors.ts';

/** Answers what comes to no route. The connection ends with it. */
export function answerRaw(connection: Duplex, status: number, reason: string, error: WeightcastError): void {
  const body = JSON.stringify(toHttp(error).body);
  connection.on('error', () => {});
  connection.end(
    `HTTP/1.1 ${status} ${reason}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
    () => connection.destroy(),
  );
}

/** Answers what is no request of HTTP, or came too slowly. */
export function refuseMalformed(error: NodeJS.ErrnoException, connection: Duplex): void {
  if (!connection.writable || error.code === 'ECONNRESET') return void connection.destroy();
  const [status, reason, why] = malformed.get(error.code ?? '') ?? noHttp;
  answerRaw(connection, status, reason, new UsageError(why));
}

const noHttp = [400, 'Bad Request', 'what was sent is no request of HTTP/1.1'] as const;
const malformed: ReadonlyMap<string, readonly [number, string, string]> = new Map([
  [
    'HPE_HEADER_OVERFLOW',
    [431, 'Request Header Fields Too Large', 'the headers of the request are too large'],
  ],
  ['ERR_HTTP_REQUEST_TIMEOUT', [408, 'Request Timeout', 'the request did not arrive in time']],
]);
