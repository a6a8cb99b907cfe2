import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { faultsIn } from '../../scripts/checks/faults.ts';

type Files = Readonly<Record<string, string>>;

/** A repository of these files and a few that keep the rules. */
function plant(t: TestContext, files: Files): string {
  const root = mkdtempSync(join(tmpdir(), 'weightcast-rules-'));
  t.after(() => rmSync(root, { recursive: true }));
  for (const [file, text] of Object.entries({ ...lawful, ...files })) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), text);
  }
  return root;
}

const lawful: Files = {
  'src/index.ts': "export { start } from './cluster/cluster.ts';\n",
  'src/cluster/cluster.ts':
    "import { readFileSync } from 'node:fs';\nimport { act } from '../actors/act.ts';\nexport const start = () => act(readFileSync);\n",
  'src/actors/act.ts':
    "import { spawn } from './kernel/kernel.ts';\nimport type { Reader } from '../engines/reader.ts';\nexport const act = (read: unknown) => spawn(read as Reader);\n",
  'src/actors/kernel/kernel.ts': "import { spawn as start } from 'nact';\nexport const spawn = start;\n",
  'src/engines/reader.ts':
    "import { readFile } from 'node:fs/promises';\nexport type Reader = typeof readFile;\nexport { readFile };\n",
  'src/plan/plan.ts':
    "import { createHash } from 'node:crypto';\nexport const digest = (text: string) => createHash('sha256').update(text);\n",
  'scenarios/demo.ts': "import { start } from '../src/index.ts';\nstart();\n",
};

const lines = (count: number, line = '  run();') => `${line}\n`.repeat(count);

/** What is planted, and the one fault that it is. */
const planted: readonly (readonly [string, Files, RegExp])[] = [
  [
    'nact outside of the kernel',
    { 'src/actors/rank.ts': "import {\n  dispatch,\n} from 'nact';\nexport { dispatch };\n" },
    /^src\/actors\/rank\.ts:3 imports nact: only actors\/kernel\/ imports nact$/,
  ],
  [
    'zeromq outside of the transport',
    { 'src/cluster/socket.ts': "export { Dealer } from 'zeromq';\n" },
    /^src\/cluster\/socket\.ts:1 imports zeromq: only transport\//,
  ],
  [
    'the addon outside of its bridge',
    {
      'src/native-bridge/addon.ts': 'export const addon = 1;\n',
      'src/processes/rank.ts':
        "const { addon } = await import('../native-bridge/addon.ts');\nexport { addon };\n",
    },
    /^src\/processes\/rank\.ts:1 imports src\/native-bridge\/addon\.ts: only native-bridge\//,
  ],
  [
    'a scenario in the package',
    { 'src/cli/demo.ts': "import '../../scenarios/demo.ts';\n" },
    /^src\/cli\/demo\.ts:1 imports scenarios\/demo\.ts: src\/ stands alone/,
  ],
  [
    'the type of a simulation in the package',
    {
      'simulation/clock.ts': 'export interface Clock {}\n',
      'src/cluster/clock.ts': "export type { Clock } from '../../simulation/clock.ts';\n",
    },
    /^src\/cluster\/clock\.ts:1 imports simulation\/clock\.ts: src\/ stands alone/,
  ],
  [
    'an actor below the actors',
    { 'src/engines/up.ts': "export { act } from '../actors/act.ts';\n" },
    /^src\/engines\/up\.ts:1 imports src\/actors\/act\.ts: what lies below/,
  ],
  [
    'the command line below itself',
    {
      'src/cli/main.ts': 'export const main = 1;\n',
      'src/cluster/face.ts': "export { main } from '../cli/main.ts';\n",
    },
    /^src\/cluster\/face\.ts:1 imports src\/cli\/main\.ts: the command line stands on cluster\/$/,
  ],
  [
    'a file in a plan',
    { 'src/plan/read.ts': "import { readFileSync } from 'node:fs';\nexport const read = readFileSync;\n" },
    /^src\/plan\/read\.ts:1 imports node:fs: .* ports only$/,
  ],
  [
    'a file at the end of a chain from an actor',
    {
      'src/actors/read.ts': "import { bytes } from '../checkpoint/bytes.ts';\nexport const read = bytes;\n",
      'src/checkpoint/bytes.ts': "export { readFile as bytes } from '../engines/reader.ts';\n",
    },
    /^src\/actors\/read\.ts:1 imports src\/checkpoint\/bytes\.ts \(src\/checkpoint\/bytes\.ts -> src\/engines\/reader\.ts -> node:fs\/promises\)/,
  ],
  [
    'an inline type, which leaves an import behind',
    {
      'src/actors/inline.ts':
        "import { type Reader } from '../engines/reader.ts';\nexport const read = null as unknown as Reader;\n",
    },
    /^src\/actors\/inline\.ts:1 imports src\/engines\/reader\.ts \(/,
  ],
  [
    'a circle of types',
    {
      'src/plan/a.ts': "import type { B } from './b.ts';\nexport interface A { b: B }\n",
      'src/plan/b.ts': "import { type C } from './c.ts';\nexport interface B { c: C }\n",
      'src/plan/c.ts': "export type { A as C } from './a.ts';\n",
    },
    /^imports go in a circle: src\/plan\/a\.ts -> src\/plan\/b\.ts -> src\/plan\/c\.ts -> src\/plan\/a\.ts$/,
  ],
  [
    'two circles that share a file, as one',
    {
      'bench/a.ts': "import './b.ts';\nimport './c.ts';\n",
      'bench/b.ts': "import './a.ts';\n",
      'bench/c.ts': "import './a.ts';\n",
    },
    /^imports go in a circle: bench\/a\.ts -> bench\/b\.ts -> bench\/a\.ts \(and with them bench\/c\.ts\)$/,
  ],
  [
    'a file that imports itself',
    { 'bench/a.ts': "export * from './a.ts';\n" },
    /: bench\/a\.ts -> bench\/a\.ts$/,
  ],
  [
    'timers by import',
    { 'src/actors/wait.ts': "import timers from 'node:timers/promises';\nexport { timers };\n" },
    /^src\/actors\/wait\.ts:1 imports node:timers\/promises: .* ports only$/,
  ],
  [
    'randomness of node:crypto',
    {
      'src/plan/id.ts':
        "import * as crypto from 'node:crypto';\n\nexport const id = () => crypto.randomUUID();\n",
    },
    /^src\/plan\/id\.ts:3 uses randomUUID: /,
  ],
  [
    'a long file',
    { 'src/plan/long.ts': lines(351, 'export {};') },
    /^src\/plan\/long\.ts has 351 lines, 350 at most/,
  ],
  [
    'a long function',
    {
      'src/cli/long.ts': `/** Runs. */\nexport async function go<T>(run: () => T): Promise<[T, { a: 1 }]> {\n${lines(59)}}\n`,
    },
    /^src\/cli\/long\.ts:2 go has 61 lines, 60 at most$/,
  ],
  [
    'a long method',
    {
      'src/cli/long.ts': `class Long {\n  #run = () => {};\n\n  #go(\n    run = { a: 1 },\n  ): { a: 1 } | null {\n${lines(57, '    if (run) { run(); }')}  }\n}\n`,
    },
    /^src\/cli\/long\.ts:4 #go has 61 lines/,
  ],
  [
    'a long arrow function',
    { 'src/cli/long.ts': `export const go = (run: () => void) => {\n${lines(59)}};\n` },
    /^src\/cli\/long\.ts:1 an arrow function has 61 lines/,
  ],
];

for (const [what, files, fault] of planted) {
  test(`the rules name ${what}`, (t) => {
    const faults = faultsIn(plant(t, files));
    assert.equal(faults.length, 1, faults.join('\n'));
    assert.match(faults[0]!, fault);
  });
}

const clocks = [
  'Date.now()',
  'new Date()',
  'performance.now()',
  'performance\n  .now()',
  'Math.random()',
  'setTimeout(f, 1)',
  'setInterval(f, 1)',
  'setImmediate(f)',
  'AbortSignal.timeout(1)',
  'process.hrtime()',
  // biome-ignore-start lint/suspicious/noTemplateCurlyInString: it is source text
  '`${Date.now()}`',
  '`${`${Math.random()}`}`',
  // biome-ignore-end lint/suspicious/noTemplateCurlyInString: it is source text
];

test('the rules name every clock, timer and random source in an actor, and none elsewhere', (t) => {
  for (const use of clocks) {
    const faults = faultsIn(
      plant(t, { 'src/actors/use.ts': `const f = () => {};\nexport const x = ${use};\n` }),
    );
    assert.equal(faults.length, 1, `${use}: ${faults.join('\n')}`);
    assert.match(faults[0]!, /^src\/actors\/use\.ts:2 uses /, use);
    assert.deepEqual(faultsIn(plant(t, { 'src/cli/use.ts': `export const x = ${use};\n` })), []);
  }
});

test('what comments, strings and regular expressions say is no fault', (t) => {
  const text = [
    "/** import { x } from 'zeromq'; Date.now() */",
    "// import 'nact'; setTimeout()",
    'export const a = "import \'zeromq\'; Math.random()";',
    "export const b = 'it\\'s Date.now()';",
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is source text
    'export const c = `import { x } from "zeromq" ${1 / 2} Date.now() ${{ a: `}` }.a} setTimeout`;',
    'export const d = [/["\'`]Date.now()[/]/, 4 / 2, "/"];',
    'export const e = (x: number) => x / 2 > 1 ? "Math.random()" : /\\/setTimeout/.test("");',
    '',
  ].join('\n');
  assert.deepEqual(faultsIn(plant(t, { 'src/actors/text.ts': text })), []);
});

test('a long file that says why at its top, and many short functions in one class, are no fault', (t) => {
  const methods = Array.from({ length: 30 }, (_, n) => `  go${n}(): { a: 1 } {\n${lines(4)}  }\n`).join('\n');
  const files = {
    'src/plan/long.ts': `/** All dtypes. Length: one table. */\n${lines(400, 'export {};')}`,
    'src/plan/many.ts': `export class Many {\n${methods}}\n`,
    'src/plan/types.ts': `export interface Many {\n${lines(80, '  go(): void;')}}\n`,
  };
  assert.deepEqual(faultsIn(plant(t, files)), []);
  const late = `${lines(400, 'export {};')}/** Length: too late. */\n`;
  assert.equal(faultsIn(plant(t, { 'src/plan/long.ts': late })).length, 1);
});

test('the command prints each fault and fails, and is silent where there is none', (t) => {
  const run = (root: string) =>
    spawnSync(process.execPath, ['--import', 'tsx', 'scripts/check-imports.ts', root], { encoding: 'utf8' });
  const clean = run(plant(t, {}));
  assert.deepEqual([clean.status, clean.stdout, clean.stderr], [0, '', '']);
  const faulty = run(plant(t, { 'src/plan/x.ts': 'export const x = [Math.random(), Date.now()];\n' }));
  assert.deepEqual([faulty.status, faulty.stderr.trim().split('\n').length], [1, 2]);
});
