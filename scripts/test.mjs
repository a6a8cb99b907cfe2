// Runs compiled tests (compile-tests.mjs): all but those of whole clusters, or those of the files and folders that it is
// given. Arguments that begin with a dash go to node, as --test-name-pattern=...; --test-concurrency says how many processes
// there are at once, and --test-timeout after how many milliseconds without a test that begins or ends a process hangs. Quiet
// but for failures and the counts.
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runProgram } from './run-program.mjs';
import { inSources, sourceOf, sourcePosition } from './source-position.mjs';
import { sweepTests } from './sweep-tests.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const tree = join(root, 'build/test');

/** These start whole clusters, which takes longer than all others together: npm run test:clusters. */
const clusters = ['test/cluster', 'test/daemon', 'test/readme', 'test/scenarios'];
/** These need hardware or tools that not every machine has, and have commands of their own. */
const tools = [
  'test/gpu',
  'test/rdma-vm',
  'test/python',
  'test/engines-real',
  'test/adapters',
  'test/launchers',
];
/** Run where they are named. */
const separate = [...clusters, ...tools];

/**
 * Tests that share a process with others, because node takes longer to start and to import what is tested than most of
 * them take. A group runs its tests one after the other, so that those that mostly wait are several groups. A file that
 * keeps a cluster for all its tests stays alone: the tests of others, which may block the process, would end it.
 */
const shared = [
  [
    'test/plan',
    'test/checkpoint',
    'test/observe',
    'test/actors',
    'test/faults',
    'test/doctor/findings.test.ts',
    'test/bench/spans.test.ts',
  ],
  ['test/simulation'],
  ['test/engines'],
  ['test/transport'],
  named(
    'test/native',
    'fabric-failures',
    'fabric-handshake',
    'fabric-network',
    'fabric-read',
    'fabric-addresses',
  ),
  named('test/native', 'broadcast-delivered', 'broadcast-failed', 'nccl-collective', 'nccl-faults'),
  named(
    'test/native',
    'cuda-collectives',
    'cuda-device',
    'cuda-digest',
    'cuda-driver',
    'cuda-errors',
    'cuda-pin',
  ),
  ['test/native'],
  named('test/cluster', 'command-ends', 'engine-paused', 'engine-states', 'draft-model'),
  named('test/cluster', 'files-on-hosts', 'metas', 'sources-gone'),
  named('test/cluster', 'join', 'join-failures', 'instances'),
  named(
    'test/daemon',
    'access',
    'configuration',
    'connection-limit',
    'kept-files',
    'kept-instances',
    'serve-command',
  ),
  named('test/engines-real', 'trainer-loop', 'vllm-proofs', 'vllm-trainer', 'vllm-updates'),
  named('test/scenarios', 'engine-pauses', 'engine-processes', 'engine-routes', 'engine-updates', 'gate'),
];
/** These take so long that they had better run at the same time, or need a process as it starts. */
const alone = [
  ...named('test/simulation', 'seeds', 'scale', 'same-seed', 'command'),
  ...named('test/native', 'nccl-library', 'cuda-upload'),
];

function named(folder, ...names) {
  return names.map((name) => `${folder}/${name}.test.ts`);
}

function testsIn(path) {
  if (statSync(join(root, path)).isFile()) return path.endsWith('.test.ts') ? [path] : [];
  return readdirSync(join(root, path)).flatMap((name) => {
    const child = join(path, name);
    return separate.includes(child) ? [] : testsIn(child);
  });
}

function isInside(path, folders) {
  return folders.some((folder) => path === folder || path.startsWith(`${folder}/`));
}

function compiled(path) {
  return join(tree, path.replace(/\.ts$/, '.js'));
}

/** What runs in a process of its own: a file of tests, or one that imports several. */
function jobsOf(files) {
  const free = new Set(files.filter((file) => !alone.includes(file)));
  const groups = shared.map((paths) => {
    const group = [...free].filter((file) => isInside(file, paths));
    for (const file of group) free.delete(file);
    return group;
  });
  const apart = files.filter((file) => !groups.flat().includes(file));
  return [
    ...groups.filter((group) => group.length > 1).map(together),
    ...[...apart, ...groups.filter(({ length }) => length === 1).flat()].map((file) => {
      return { name: file, program: compiled(file) };
    }),
  ];
}

/** What this run writes: the tree may be read-only, as in the virtual machine. */
const scratch = mkdtempSync(join(tmpdir(), 'weightcast-tests-'));
process.on('exit', () => rmSync(scratch, { recursive: true }));

let programs = 0;

function together(files) {
  const name = `${files.length} files from ${files[0]} to ${files.at(-1)}`;
  const program = join(scratch, `together-${programs}.mjs`);
  programs += 1;
  writeFileSync(program, files.map((file) => `import ${JSON.stringify(compiled(file))};\n`).join(''));
  return { name, program };
}

/** Seconds that each file took the last time: the longest begin first, so that none is left to run alone at the end. */
const history = join(tree, '.seconds.json');

function remember(seconds) {
  try {
    // Others may read or write it at the same time.
    const draft = `${history}.${process.pid}`;
    writeFileSync(draft, JSON.stringify(seconds));
    renameSync(draft, history);
  } catch (error) {
    // What it is for is only speed, and the virtual machine may only read the tree.
    if (error.code !== 'EROFS') throw error;
  }
}

function lastSeconds() {
  return existsSync(history) ? JSON.parse(readFileSync(history, 'utf8')) : {};
}

/** What came of all jobs; files are named by their sources. */
class Outcome {
  counts = { pass: 0, fail: 0, skip: 0 };
  seconds = {};

  add({ name }, { tests, failure, seconds }) {
    for (const test of tests) {
      this.counts[test.is] += 1;
      this.#print(test);
      if (test.file === undefined) continue;
      const file = sourceOf(test.file);
      this.seconds[file] = (this.seconds[file] ?? 0) + test.seconds;
    }
    // The start of its process counts too.
    this.seconds[name] = seconds;
    if (failure === null) return;
    this.counts.fail += 1;
    console.log(`FAIL ${name} ${inSources(failure)}\n`);
  }

  #print({ is, name, file, line, report, reason }) {
    const where = file === undefined ? '' : `${sourcePosition(file, line)} `;
    if (is === 'fail' && report !== null) console.log(`FAIL ${where}${name}\n${inSources(report)}\n`);
    if (is === 'skip' && reason !== '') console.log(`SKIP ${where}${name}: ${reason}`);
  }

  summarise(seconds) {
    const { pass, fail, skip } = this.counts;
    const slowest = Object.entries(this.seconds)
      .filter(([name]) => name.endsWith('.ts'))
      .sort(([, one], [, other]) => other - one)
      .slice(0, 5);
    for (const [file, took] of slowest) console.log(`# slow: ${took.toFixed(1).padStart(5)} s ${file}`);
    console.log(`# tests ${pass + fail + skip}\n# pass ${pass}\n# fail ${fail}\n# skipped ${skip}`);
    console.log(`# seconds ${seconds.toFixed(1)}`);
  }
}

/** What node is given, and what is for this program. */
function parse(words) {
  const settings = {
    concurrency: 3 * availableParallelism(),
    timeoutMilliseconds: 180_000,
    options: [],
    paths: [],
  };
  for (const word of words) {
    const [, name, value] = /^--test-(concurrency|timeout)=(\d+)$/.exec(word) ?? [];
    if (name === 'concurrency') settings.concurrency = Number(value);
    else if (name === 'timeout') settings.timeoutMilliseconds = Number(value);
    else if (word.startsWith('-')) settings.options.push(word);
    else settings.paths.push(relative(root, resolve(word)));
  }
  return settings;
}

const { concurrency, timeoutMilliseconds, options, paths } = parse(process.argv.slice(2));
const files = (paths.length > 0 ? paths : ['test']).flatMap(testsIn);
if (files.length === 0) {
  console.error(`no tests in ${paths.join(', ')}`);
  process.exit(2);
}
const { sweepSharedMemory } = await import(join(tree, 'src/processes/sweep.js'));
sweepSharedMemory();
sweepTests();
const begun = performance.now();
const past = lastSeconds();
const waiting = jobsOf(files).sort(
  (one, other) => (past[other.name] ?? Number.MAX_VALUE) - (past[one.name] ?? Number.MAX_VALUE),
);
const outcome = new Outcome();
const workers = Array.from({ length: concurrency }, async (_, worker) => {
  for (let job = waiting.shift(); job !== undefined; job = waiting.shift()) {
    const records = join(scratch, `${worker}-${waiting.length}`);
    outcome.add(job, await runProgram(job.program, { options, timeoutMilliseconds, records }));
  }
});
await Promise.all(workers);
if (options.length === 0) remember({ ...past, ...outcome.seconds });
outcome.summarise((performance.now() - begun) / 1_000);
process.exitCode = outcome.counts.fail === 0 ? 0 : 1;
