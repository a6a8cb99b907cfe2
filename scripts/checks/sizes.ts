import { lineAt, type Source } from './source-text.ts';

export const fileLimit = 350;
export const functionLimit = 60;

/** A longer file says why it is longer, as in `Length: one table`, in the comment at its top. */
const reason = /\bLength: \S/;

/** Each file and each function of src/ that is too long. */
export function oversized(sources: readonly Source[]): string[] {
  return sources
    .filter(({ file }) => file.startsWith('src/'))
    .flatMap((source) => [...longFile(source), ...longFunctions(source)]);
}

function longFile({ file, text, code }: Source): string[] {
  const lines = text.trimEnd().split('\n').length;
  const head = text.slice(0, code.search(/\S/));
  if (lines <= fileLimit || reason.test(head)) return [];
  return [`${file} has ${lines} lines, ${fileLimit} at most: split it, or say "Length:" and why at its top`];
}

function longFunctions({ file, code }: Source): string[] {
  return functionsOf(code)
    .filter(({ first, last }) => last - first >= functionLimit)
    .map(({ name, first, last }) => {
      return `${file}:${first} ${name} has ${last - first + 1} lines, ${functionLimit} at most`;
    });
}

interface Span {
  readonly name: string;
  readonly first: number;
  readonly last: number;
}

interface Bracket {
  /** The function whose body it opens. */
  readonly body: { readonly name: string; readonly start: number } | null;
  /** Within it: the function whose parameters or arrow came last, while its body may still follow. */
  head: { readonly name: string; readonly start: number } | null;
}

/** Words before a parenthesis that begin a statement and no function. */
const statements = new Set(['if', 'for', 'while', 'switch', 'catch', 'with', 'await', 'return']);

function headBefore(before: string): Bracket['head'] {
  const word = /([A-Za-z_$#][\w$#]*)\s*(?:<[^(){}]*>)?$/.exec(before.slice(-200));
  if (word === null || statements.has(word[1]!)) return null;
  return { name: word[1]!, start: before.length - word[0].length };
}

/** The functions of some code, found by their brackets: a body follows parameters and a type, or an arrow. */
export function functionsOf(code: string): Span[] {
  const found: Span[] = [];
  const open: Bracket[] = [{ body: null, head: null }];
  for (const match of code.matchAll(/=>|[()[\]{};=]/g)) {
    const top = open.at(-1)!;
    const before = code.slice(0, match.index).trimEnd();
    switch (match[0]) {
      case '(':
      case '[':
        open.push({ body: null, head: null });
        if (match[0] === '(') top.head ??= headBefore(before);
        break;
      case '{': {
        // After one of these it is a type or an object.
        const isBody = top.head !== null && !/[:|&<,?([]$/.test(before);
        open.push({ body: isBody ? top.head : null, head: null });
        break;
      }
      case '=>':
        top.head ??= { name: 'an arrow function', start: match.index };
        break;
      case ')':
      case ']':
        open.pop();
        break;
      case '}': {
        open.pop();
        const parent = open.at(-1)!;
        if (top.body === null) break;
        const { name, start } = top.body;
        found.push({ name, first: lineAt(code, start), last: lineAt(code, match.index) });
        parent.head = null;
        break;
      }
      default:
        top.head = null;
    }
  }
  return found;
}
