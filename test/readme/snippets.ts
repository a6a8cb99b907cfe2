import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { delimiter } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { runToEnd, type Variables } from '../program.ts';

/** A fenced block of a page that is a program. */
export interface Snippet {
  readonly language: 'python' | 'sh' | 'ts';
  readonly text: string;
}

/** Blocks without a language are what programs print. */
function snippetsOf(page: string): readonly Snippet[] {
  const text = readFileSync(new URL(page, packageRoot), 'utf8');
  const blocks = text.matchAll(/^```(?<language>python|sh|ts)\n(?<text>.*?)^```$/gms);
  return [...blocks].map(({ groups }) => groups as unknown as Snippet);
}

export const snippets = snippetsOf('README.md');

/** The one snippet of a page with these words. */
export function snippetWith(words: string, page = 'README.md'): Snippet {
  const found = (page === 'README.md' ? snippets : snippetsOf(page)).filter(({ text }) =>
    text.includes(words),
  );
  assert.equal(found.length, 1, `one snippet of ${page} has ${words}`);
  return found[0]!;
}

/** Words of a snippet, and what stands for them on this machine. Each has to be there. */
export type Replacements = readonly (readonly [words: string, by: string])[];

export function replaced({ text }: Snippet, replacements: Replacements): string {
  return replacements.reduce((before, [words, by]) => {
    assert.ok(before.includes(words), `the page says ${words}`);
    return before.replaceAll(words, by);
  }, text);
}

/** Runs a program that finds this repository's package; rejects with all that it says unless it ends with 0. */
export async function runText(words: readonly string[], variables: Variables): Promise<string> {
  const packages = [fileURLToPath(new URL('python', packageRoot)), process.env.PYTHONPATH].filter(Boolean);
  const { code, said } = await runToEnd(words, { PYTHONPATH: packages.join(delimiter), ...variables });
  assert.equal(code, 0, said);
  return said;
}
