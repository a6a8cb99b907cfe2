import { describe, OverloadedError, UsageError } from '../../src/errors.ts';

/** A request that vLLM would refuse with this status and message. */
export class RefusedRequest extends UsageError {
  readonly status: 400 | 404;
  /** The invalid field. */
  readonly param: string | null;

  constructor(message: string, options: { readonly status?: 400 | 404; readonly param?: string } = {}) {
    super(message);
    this.status = options.status ?? 400;
    this.param = options.param ?? null;
  }
}

interface ErrorAnswer {
  readonly status: number;
  readonly body: { readonly error: ErrorInfo };
}

/** vLLM's `ErrorInfo`. */
interface ErrorInfo {
  readonly message: string;
  readonly type: string;
  readonly param: string | null;
  readonly code: number;
}

const types: Readonly<Record<number, string>> = {
  400: 'BadRequestError',
  404: 'NotFoundError',
  500: 'InternalServerError',
  503: 'ServiceUnavailableError',
};

/** The response for anything that was thrown. */
export function errorAnswer(thrown: unknown): ErrorAnswer {
  const status = statusOf(thrown);
  const param = thrown instanceof RefusedRequest ? thrown.param : null;
  return {
    status,
    body: { error: { message: describe(thrown), type: types[status]!, param, code: status } },
  };
}

function statusOf(thrown: unknown): number {
  if (thrown instanceof RefusedRequest) return thrown.status;
  return thrown instanceof OverloadedError ? 503 : 500;
}
