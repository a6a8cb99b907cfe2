import { EngineError } from '../errors.ts';

/** An engine's answer to one HTTP request. */
export interface EngineAnswer {
  readonly status: number;
  /** Its media type, without parameters; empty if it has none. */
  readonly type: string;
  readonly text: string;
}

/** The engine, or something in its place, has answered, but not as it does when it has done what it was asked. */
export class EngineRefusal extends EngineError {
  /** Of the HTTP answer: 200 too, where its body says otherwise. */
  readonly status: number;

  constructor(message: string, status: number, cause: string) {
    super(message, { cause });
    this.status = status;
  }
}

/** An error with one line of the answer; its cause is the whole answer. */
export function refusalOf(what: string, answer: EngineAnswer): EngineRefusal {
  const { status } = answer;
  if (isPage(answer))
    return new EngineRefusal(`${what} ${status}: an HTML page, which no engine sends`, status, answer.text);
  const message = messageIn(answer.text).trim();
  const lines = message.split('\n').filter((line) => line.trim() !== '');
  // Python's traceback ends with the error message.
  const line = message.startsWith('Traceback') ? lines.at(-1) : lines[0];
  const detail = line === undefined ? '' : `: ${line.trim().slice(0, 500)}`;
  return new EngineRefusal(`${what} ${status}${detail}`, status, message);
}

/** SGLang's answers have `success`, as does vLLM's to a failed cache reset, which is a 200 too. A proxy sends pages. */
export function isSuccess(answer: EngineAnswer): boolean {
  return answer.status === 200 && !isPage(answer) && parseObject(answer.text)?.success !== false;
}

/** Null unless the text is a JSON object. */
export function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

function isPage({ type }: EngineAnswer): boolean {
  return type === 'text/html';
}

/** vLLM's `{error: {message}}`, older builds' and SGLang's `{message}`, FastAPI's `{detail}`, otherwise the text. */
function messageIn(text: string): string {
  const body = parseObject(text);
  const error = body?.error as Record<string, unknown> | string | null | undefined;
  const nested = typeof error === 'object' ? error?.message : error;
  for (const candidate of [nested, body?.message, body?.detail]) {
    if (typeof candidate === 'string') return candidate;
  }
  return text;
}

export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}
