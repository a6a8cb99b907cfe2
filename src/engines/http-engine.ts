import type { EngineError } from '../errors.ts';
import type { CallOptions, EngineKind, Readiness } from './engine-client.ts';
import { EngineHttp, type EngineHttpOptions } from './engine-http.ts';
import { refuseOtherKind } from './engine-identity.ts';

/** An engine over HTTP: what the clients of all kinds share. */
export abstract class HttpEngine {
  protected readonly http: EngineHttp;
  readonly #kind: EngineKind;
  readonly #healthRoute: string;

  /** Throws `UsageError` for an invalid endpoint. `healthRoute`: what answers 200 when the engine takes requests. */
  constructor(kind: EngineKind, healthRoute: string, options: EngineHttpOptions) {
    this.http = new EngineHttp(options);
    this.#kind = kind;
    this.#healthRoute = healthRoute;
  }

  get endpoint(): string {
    return this.http.endpoint;
  }

  ready(options: CallOptions): Promise<Readiness> {
    return this.http.ready(this.#healthRoute, options, (missing) => this.refuseOtherKind(options, missing));
  }

  /** Rejects with `EngineError` if the engine is of another kind, as far as it can be told. */
  protected refuseOtherKind(options: CallOptions, missing?: EngineError): Promise<void> {
    return refuseOtherKind(this.http, this.#kind, options, missing);
  }

  close(): Promise<void> {
    return this.http.close();
  }
}
