import { request } from 'node:http';

export interface Answer {
  readonly status: number;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it as a client in another language does.
  readonly body: any;
}

/**
 * One request on a socket's path, or to `http://host:port`. A text is sent as it is, anything else as JSON. It knows
 * nothing of the daemon's own client.
 */
export function ask(
  where: string,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const place = where.startsWith('http')
    ? { host: new URL(where).hostname, port: new URL(where).port }
    : { socketPath: where };
  const type: Record<string, string> = body === undefined ? {} : { 'content-type': 'application/json' };
  return new Promise((resolve, reject) => {
    const sent = request(
      { ...place, method, path, headers: { ...type, ...headers }, agent: false },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (data) => {
          text += data;
        });
        response.on('end', () => {
          const isJson = response.headers['content-type']?.includes('json') ?? false;
          const answer = { status: response.statusCode!, headers: response.headers, text };
          resolve({ ...answer, body: isJson ? JSON.parse(text) : null });
        });
        response.on('error', reject);
      },
    );
    sent.on('error', reject);
    sent.end(typeof body === 'string' ? body : body === undefined ? undefined : JSON.stringify(body));
  });
}
