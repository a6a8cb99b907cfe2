import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';

/** A TypeScript file of the repository. */
export interface Source {
  /** From the repository's root. */
  readonly file: string;
  readonly text: string;
  /** The text with comments and the content of strings and regular expressions blanked; no position changes. */
  readonly code: string;
  readonly imports: readonly Import[];
}

export interface Import {
  readonly file: string;
  readonly line: number;
  /** A path from the repository's root, or the name of a package. */
  readonly target: string;
  /** It is gone when the file is compiled. */
  readonly typeOnly: boolean;
}

/** All TypeScript files in some folders of a repository; a folder that is missing has none. */
export function readSources(root: string, folders: readonly string[]): Source[] {
  const present = readdirSync(root).filter((name) => folders.includes(name));
  return present.flatMap((folder) =>
    readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile() && /\.m?[jt]s$/.test(entry.name))
      .map((entry) => {
        const path = join(entry.parentPath, entry.name);
        return sourceOf(relative(root, path), readFileSync(path, 'utf8'));
      }),
  );
}

export function sourceOf(file: string, text: string): Source {
  const code = blank(text);
  return { file, text, code, imports: importsOf(file, text, code) };
}

/** The number of the line at a position, from 1. */
export function lineAt(text: string, position: number): number {
  return text.slice(0, position).split('\n').length;
}

/** `import … from`, `export … from`, `import '…'` and `import('…')`, in code whose strings are blank. */
const statement =
  /\b(?:(?:import|export)\b(\s+type\b(?!\s*from\b))?[^'"`;()]*?\bfrom\s*|import\s*\(?\s*)(['"])( *)\2/g;

function importsOf(file: string, text: string, code: string): Import[] {
  return [...code.matchAll(statement)].map((match) => {
    const [whole, type, , content] = match;
    const end = match.index + whole.length - 1;
    const specifier = text.slice(end - content!.length, end);
    const isPath = specifier.startsWith('.');
    const target = isPath ? normalize(join(dirname(file), specifier)) : specifier;
    return { file, line: lineAt(text, end), target, typeOnly: type !== undefined };
  });
}

/** Parts of a text that are no code, each matched from its first to its last character. */
const comment = /\/\/[^\n]*|\/\*[\s\S]*?(?:\*\/|$)/y;
const string = /'(?:[^'\\\n]|\\[\s\S])*'?|"(?:[^"\\\n]|\\[\s\S])*"?/y;
const regex = /\/(?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*/y;
/** Of a template up to its end or the next `${`. */
const template = /(?:[^`\\$]|\\[\s\S]|\$(?!\{))*(?:`|\$\{|$)/y;

/** What stands before a `/` that begins a regular expression; after anything else it divides. */
const beforeRegex = /(?:^|[(,=:[!&|?{};+\-*%~^<>]|\b(?:return|typeof|case|in|of|do|else|void|await|yield))$/;

function blank(text: string): string {
  let code = '';
  /** Open braces; after the end of a `${` its template goes on. */
  const braces: ('code' | 'template')[] = [];
  const take = (pattern: RegExp): string => {
    pattern.lastIndex = code.length;
    return pattern.exec(text)?.[0] ?? '';
  };
  const keepEnds = (part: string, start: number, end: number) => {
    const middle = part.slice(start, part.length - end);
    return part.slice(0, start) + middle.replace(/[^\n]/g, ' ') + part.slice(part.length - end);
  };
  const addTemplate = () => {
    const part = take(template);
    const isInterrupted = part.endsWith('${');
    if (isInterrupted) braces.push('template');
    code += keepEnds(part, 0, isInterrupted ? 2 : 1);
  };
  while (code.length < text.length) {
    const character = text[code.length]!;
    if (character === '/') {
      const isRegex = beforeRegex.test(code.trimEnd().slice(-20));
      const part = take(comment) || (isRegex && take(regex)) || '/';
      code += part === '/' ? part : keepEnds(part, 0, 0);
    } else if (character === "'" || character === '"') {
      const part = take(string);
      code += part.length === 1 ? part : keepEnds(part, 1, 1);
    } else {
      code += character;
      if (character === '{') braces.push('code');
      if (character === '`' || (character === '}' && braces.pop() === 'template')) addTemplate();
    }
  }
  return code;
}
