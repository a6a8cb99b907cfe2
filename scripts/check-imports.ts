// Holds the import rules of the house (see CONTRIBUTING.md): `npm run check:imports`.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';

interface Import {
  readonly file: string;
  readonly line: number;
  /** A path from the repository's root, or the name of a package. */
  readonly target: string;
  readonly typeOnly: boolean;
}

interface Rule {
  readonly why: string;
  readonly breaks: (one: Import) => boolean;
}

const inside = (path: string, ...folders: string[]) =>
  folders.some((folder) => path.startsWith(`src/${folder}`));

/** Where code touches the world. */
const effects = [
  'native-bridge/',
  'transport/',
  'engines/',
  'processes/',
  'cluster/',
  'cli/',
  'http/',
  'checkpoint/source.ts',
  'checkpoint/segment-store.ts',
  'checkpoint/tensor-writer.ts',
];

/** Files among them that only say what an effect is. */
const ports = ['src/engines/engine-client.ts'];

/** A rule says which import breaks it. Imports of types alone carry no code, and are let through where noted. */
const rules: readonly Rule[] = [
  {
    why: 'only actors/kernel/ imports nact',
    breaks: ({ file, target }) => target === 'nact' && !inside(file, 'actors/kernel/'),
  },
  {
    why: 'only transport/ and engines/worker-link/ import zeromq',
    breaks: ({ file, target }) =>
      target === 'zeromq' && file.startsWith('src/') && !inside(file, 'transport/', 'engines/worker-link/'),
  },
  {
    why: 'only native-bridge/ loads the addon',
    breaks: ({ file, target, typeOnly }) =>
      target === 'src/native-bridge/addon.ts' &&
      !typeOnly &&
      file.startsWith('src/') &&
      !inside(file, 'native-bridge/'),
  },
  {
    why: 'plan/ and checkpoint/manifest are pure: no I/O, no clock, no actors',
    breaks: ({ file, target, typeOnly }) =>
      inside(file, 'plan/', 'checkpoint/manifest', 'checkpoint/parts') && !typeOnly && !isPure(target),
  },
  {
    why: 'actors get their effects through ports: only cluster.ts and processes/ wire them',
    breaks: ({ file, target, typeOnly }) =>
      inside(file, 'actors/') && !typeOnly && inside(target, ...effects) && !ports.includes(target),
  },
  {
    why: 'what lies below the actors does not know them',
    breaks: ({ file, target, typeOnly }) =>
      inside(file, 'plan/', 'checkpoint/', 'native-bridge/', 'engines/', 'transport/') &&
      inside(target, 'actors/') &&
      !typeOnly,
  },
  {
    why: 'the faces stand on cluster.ts',
    breaks: ({ file, target }) =>
      inside(target, 'cli/', 'http/') && file.startsWith('src/') && !inside(file, 'cli/', 'http/'),
  },
];

function isPure(target: string): boolean {
  const computing = ['node:assert', 'node:assert/strict', 'node:crypto', '@msgpack/msgpack', 'zod'];
  if (!target.startsWith('src/')) return computing.includes(target);
  return inside(target, 'plan/', 'checkpoint/', 'errors.ts') && target !== 'src/checkpoint/source.ts';
}

const statement = /(?:^|\n)\s*(?:import|export)\s+(type\s+)?(?:[^'";]*?\sfrom\s+)?['"]([^'"]+)['"]/g;

function importsOf(file: string): Import[] {
  const text = readFileSync(file, 'utf8');
  return [...text.matchAll(statement)].map((match) => {
    const [whole, type, specifier] = match;
    const target = specifier!.startsWith('.') ? normalize(join(dirname(file), specifier!)) : specifier!;
    const line = text.slice(0, match.index + whole.indexOf(specifier!)).split('\n').length;
    return { file, line, target, typeOnly: type !== undefined };
  });
}

function sourceFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => join(entry.parentPath, entry.name));
}

/** Circles of imports that carry code; each is told once. */
function findCircles(imports: readonly Import[]): string[] {
  const next = new Map<string, string[]>();
  for (const { file, target, typeOnly } of imports) {
    if (!typeOnly && target.endsWith('.ts')) next.set(file, [...(next.get(file) ?? []), target]);
  }
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (file: string, path: readonly string[]) => {
    if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(' -> '));
    if (done.has(file)) return;
    done.add(file);
    for (const target of next.get(file) ?? []) visit(target, [...path, file]);
  };
  for (const file of next.keys()) visit(file, []);
  return circles;
}

const imports = ['src', 'simulation', 'scenarios', 'bench'].flatMap(sourceFiles).flatMap(importsOf);
const faults = [
  ...imports.flatMap((one) =>
    rules
      .filter((rule) => rule.breaks(one))
      .map((rule) => `${one.file}:${one.line} imports ${one.target}: ${rule.why}`),
  ),
  ...findCircles(imports).map((circle) => `imports go in a circle: ${circle}`),
];
for (const fault of faults) console.error(fault);
if (faults.length > 0) process.exit(1);
