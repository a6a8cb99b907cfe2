import type { Import } from './source-text.ts';

interface Rule {
  readonly why: string;
  readonly breaks: (one: Import) => boolean;
}

const within = (path: string, ...folders: string[]) =>
  folders.some((folder) => path.startsWith(`src/${folder}`));

/** The files that decide and compute: every effect reaches them through a port. */
export function isPure(file: string): boolean {
  return within(file, 'plan/', 'actors/', 'checkpoint/manifest', 'checkpoint/parts');
}

/** Packages that compute and do nothing else. All others touch the world, and so does whatever imports one. */
const computing = new Set([
  'node:assert',
  'node:assert/strict',
  'node:crypto',
  'node:events',
  'node:path',
  'node:util',
  'node:zlib',
  '@msgpack/msgpack',
  'nact',
  'zod',
]);

/** Imports of types alone carry no code, and are let through where noted. */
const rules: readonly Rule[] = [
  {
    why: 'only actors/kernel/ imports nact',
    breaks: ({ file, target }) =>
      target === 'nact' && file.startsWith('src/') && !within(file, 'actors/kernel/'),
  },
  {
    why: 'only transport/ and engines/worker-link/ import zeromq',
    breaks: ({ file, target }) =>
      target === 'zeromq' && file.startsWith('src/') && !within(file, 'transport/', 'engines/worker-link/'),
  },
  {
    why: 'only native-bridge/ loads the addon',
    breaks: ({ file, target, typeOnly }) =>
      target === 'src/native-bridge/addon.ts' &&
      !typeOnly &&
      file.startsWith('src/') &&
      !within(file, 'native-bridge/'),
  },
  {
    why: 'src/ stands alone: what simulates, shows, measures and tests it is not part of it',
    breaks: ({ file, target }) =>
      file.startsWith('src/') && /^(?:scenarios|simulation|bench|test|scripts)\//.test(target),
  },
  {
    why: 'what lies below the actors does not know them',
    breaks: ({ file, target, typeOnly }) =>
      within(file, 'plan/', 'checkpoint/', 'native-bridge/', 'engines/', 'transport/') &&
      within(target, 'actors/') &&
      !typeOnly,
  },
  {
    why: 'the daemon stands on cluster/; only the command line starts it',
    breaks: ({ file, target }) =>
      within(target, 'daemon/') && file.startsWith('src/') && !within(file, 'daemon/', 'cli/'),
  },
  {
    why: 'the command line stands on cluster/',
    breaks: ({ file, target }) => within(target, 'cli/') && file.startsWith('src/') && !within(file, 'cli/'),
  },
];

/** Each import that breaks a rule. */
export function brokenRules(imports: readonly Import[]): string[] {
  return imports.flatMap((one) =>
    rules.filter((rule) => rule.breaks(one)).map(({ why }) => `${describe(one)}: ${why}`),
  );
}

/** Each import by which code that has to be pure reaches a package that touches the world, with the way there. */
export function effectsReached(imports: readonly Import[]): string[] {
  const targetsOf = new Map<string, string[]>();
  for (const { file, target, typeOnly } of imports) {
    if (!typeOnly) targetsOf.set(file, [...(targetsOf.get(file) ?? []), target]);
  }
  return imports
    .filter(({ file, target, typeOnly }) => isPure(file) && !isPure(target) && !typeOnly)
    .flatMap((one) => {
      const way = wayToEffect(one.target, targetsOf);
      if (way === null) return [];
      const why = 'plan/, actors/, checkpoint/manifest and checkpoint/parts get effects through ports only';
      return [`${describe(one)}${way.length > 1 ? ` (${way.join(' -> ')})` : ''}: ${why}`];
    });
}

function wayToEffect(start: string, targetsOf: ReadonlyMap<string, readonly string[]>): string[] | null {
  const ways = [[start]];
  const seen = new Set([start]);
  for (const way of ways) {
    const last = way.at(-1)!;
    if (!last.startsWith('src/') && !computing.has(last)) return way;
    for (const target of targetsOf.get(last) ?? []) {
      if (seen.has(target)) continue;
      seen.add(target);
      ways.push([...way, target]);
    }
  }
  return null;
}

function describe({ file, line, target }: Import): string {
  return `${file}:${line} imports ${target}`;
}
