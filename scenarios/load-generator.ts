import { request } from 'undici';

/** Statistics of the requests so far. */
export interface LoadReport {
  readonly served: number;
  readonly failed: number;
  /** Versions that answered, in order of first appearance. */
  readonly versions: readonly string[];
  /** Error message of the first failure. */
  readonly firstFailure: string | null;
  /** Duration of the slowest request: how long the engine held requests back. */
  readonly slowestMilliseconds: number;
}

const requestTimeoutMilliseconds = 120_000;
/** Pause between two requests of a client: enough load to notice a failure, with CPU left for the update. */
const pauseMilliseconds = 5;

/** Clients that send completion requests to an engine, one after the other, until they are stopped. */
export class LoadGenerator {
  readonly #endpoint: string;
  readonly #model: string;
  readonly #clients: Promise<void>[];
  readonly #versions = new Set<string>();
  #served = 0;
  #failed = 0;
  #firstFailure: string | null = null;
  #slowest = 0;
  #stopping = false;

  /** `model`: name of the served model. */
  constructor(endpoint: string, model: string, clients: number) {
    this.#endpoint = endpoint;
    this.#model = model;
    this.#clients = Array.from({ length: clients }, (_, client) => this.#run(client));
  }

  /** Resolves when the requests in flight have ended. */
  async stop(): Promise<LoadReport> {
    this.#stopping = true;
    await Promise.all(this.#clients);
    return this.report();
  }

  report(): LoadReport {
    return {
      served: this.#served,
      failed: this.#failed,
      versions: [...this.#versions],
      firstFailure: this.#firstFailure,
      slowestMilliseconds: Math.round(this.#slowest),
    };
  }

  async #run(client: number): Promise<void> {
    for (let number = 0; !this.#stopping; number += 1) {
      const startedAt = performance.now();
      try {
        this.#versions.add(await this.#complete(`client ${client}, request ${number}`));
        this.#served += 1;
      } catch (error) {
        this.#failed += 1;
        this.#firstFailure ??= (error as Error).message;
      }
      this.#slowest = Math.max(this.#slowest, performance.now() - startedAt);
      await new Promise((resolve) => setTimeout(resolve, pauseMilliseconds));
    }
  }

  /** Sends one request; resolves with the version that answered. */
  async #complete(prompt: string): Promise<string> {
    const answer = await request(`${this.#endpoint}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: this.#model, prompt, max_tokens: 4 }),
      signal: AbortSignal.timeout(requestTimeoutMilliseconds),
    });
    const body = (await answer.body.json()) as { system_fingerprint?: string; choices?: { text: string }[] };
    if (answer.statusCode !== 200 || !body.choices?.[0]?.text) {
      throw new Error(`HTTP ${answer.statusCode}: ${JSON.stringify(body)}`);
    }
    return body.system_fingerprint ?? 'unknown';
  }
}

/** The report as one line. */
export function requestsText({ served, failed, versions, firstFailure }: LoadReport): string {
  const failure = firstFailure === null ? '' : ` (${firstFailure})`;
  const by = versions.length === 0 ? '' : ` by ${versions.map(shortVersion).join(', then ')}`;
  return `${served} served${by}; ${failed} failed${failure}`;
}

/** The version with its digest shortened for people. */
function shortVersion(version: string): string {
  return version.replace(/(@[0-9a-f]{12})[0-9a-f]+/g, '$1');
}
