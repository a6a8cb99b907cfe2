import { isPure } from './import-rules.ts';
import { lineAt, type Source } from './source-text.ts';

/** Clocks, timers and random numbers that need no import. */
const globals =
  /\b(?:Date\s*\.\s*now|new\s+Date|performance\s*\.\s*now|Math\s*\.\s*random|setTimeout|setInterval|setImmediate|AbortSignal\s*\.\s*timeout|process\s*\.\s*hrtime)\b/g;

/** Those of node:crypto. */
const randomNames =
  /\b(?:randomBytes|randomUUID|randomInt|randomFill|randomFillSync|getRandomValues|webcrypto|generateKey\w*)\b/g;

/** Each clock, timer or random number that code which has to be repeatable does not get through a port. */
export function clocksAndRandomness(sources: readonly Source[]): string[] {
  const why = 'clock and randomness are ports here (src/ports.ts)';
  return sources
    .filter(({ file }) => isPure(file))
    .flatMap(({ file, code }) =>
      [globals, randomNames].flatMap((pattern) =>
        [...code.matchAll(pattern)].map((match) => {
          const what = match[0].replace(/\s*\.\s*/, '.');
          return `${file}:${lineAt(code, match.index)} uses ${what}: ${why}`;
        }),
      ),
    );
}
