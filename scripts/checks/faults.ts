import { circlesOf } from './circles.ts';
import { clocksAndRandomness } from './clocks-and-randomness.ts';
import { brokenRules, effectsReached } from './import-rules.ts';
import { oversized } from './sizes.ts';
import { readSources } from './source-text.ts';

/** Everything in a repository that breaks its rules: one line each, with file and line. */
export function faultsIn(root: string): string[] {
  const sources = readSources(root, ['src', 'simulation', 'scenarios', 'bench', 'scripts', 'test']);
  const imports = sources.flatMap((source) => source.imports);
  return [
    ...brokenRules(imports),
    ...effectsReached(imports),
    ...circlesOf(imports),
    ...clocksAndRandomness(sources),
    ...oversized(sources),
  ];
}
