/** What README.md shows, with the addresses, paths and numbers of this machine in place of its own. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, delimiter, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startReferenceEngine } from '../../scenarios/reference-engine/index.ts';
import { packageRoot } from '../../src/package-root.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { writeCommand, writeWeightcast } from '../commands.ts';
import { startDaemonBench } from '../daemon/harness.ts';
import { withoutPython } from '../daemon/python.ts';
import { type Replacements, replaced, runText, snippets, snippetWith } from './snippets.ts';

const python = process.env.WEIGHTCAST_PYTHON ?? 'python3';
const bench = await startDaemonBench({ after });
const { scratch, daemon, engine } = bench;
const model = await bench.makeModel(2);

const commands = temporaryDirectory({ after });
const program = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
/** A daemon has its devices itself. */
const isUpdate = `case "$*" in update*--endpoint*) set -- "$@" --devices host:${basename(scratch)};; esac`;
writeWeightcast(commands, '"$@"', `${isUpdate}\n`);
writeCommand(commands, 'npx', 'exec "$@"');
const environment = {
  WEIGHTCAST_SOCKET: daemon.socket,
  PATH: `${commands}${delimiter}${process.env.PATH}`,
};

const endpoint = ['http://127.0.0.1:8000', engine.endpoint] as const;
const checkpoint = ['/checkpoints/step-100', model] as const;

function runPython(
  words: string,
  replacements: Replacements,
  prelude = '',
  page = 'README.md',
): Promise<string> {
  const path = join(scratch, 'snippet.py');
  writeFileSync(path, `${prelude}${replaced(snippetWith(words, page), replacements)}`);
  return runText([python, '-W', 'error', path], environment);
}

/** Training for two steps, to the weights of a file. */
const training = `
import glob, json
steps = 2
def train(model):
    pass
class Model:
    def state_dict(self):
        tensors = {}
        for path in glob.glob(${JSON.stringify(join(model, '*.safetensors'))}):
            with open(path, "rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
                data = file.read()
            for name, entry in header.items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
        return tensors
model = Model()
`;

test('every snippet is run by a test, here or with torch', () => {
  const here = [
    'weightcast.connect()',
    'npm run demo',
    'weightcast doctor',
    'Client()',
    'const instances',
    "name: 'b'",
    'addInstance',
    'tp16',
    'weightcast agent',
  ];
  const commandLine = snippets.find(({ language }) => language === 'sh')!.text;
  const withTorch = ['torchrun', 'def expected'];
  const known = [...here, ...withTorch].map((words) => snippetWith(words));
  const others = snippets.filter((snippet) => !known.includes(snippet)).map(({ text }) => text);
  assert.deepEqual(others, [commandLine]);
});

test('Python: a trainer publishes steps', { skip: withoutPython() }, async () => {
  await runPython('weightcast.connect()', [['range(8)', 'range(2)'], endpoint], training);
});

test('Python: a client registers a directory', { skip: withoutPython() }, async () => {
  const output = await runPython('Client()', [['range(8)', 'range(2)'], endpoint, checkpoint]);
  assert.match(output, /^engine updated \{/m);
});

test('the shell: one update, and the doctor', async () => {
  const here = [['/models/Qwen3-8B', model], endpoint, ['--ranks 8', '--ranks 2']] as const;
  const [first] = snippets.filter(({ language }) => language === 'sh');
  const checkout = snippetWith('weightcast doctor');
  // What the doctor thinks of this machine is its own affair.
  const later = replaced(checkout, here).replace(/^npx weightcast doctor .*$/m, (line) => `${line} || true`);
  for (const text of [replaced(first!, here), later])
    assert.match(await runText(['sh', '-ec', text], environment), /^engine +updated; arrived holds/m);
});

test('the page of the daemon: its commands', async () => {
  const next = await bench.makeModel(3);
  const text = replaced(snippetWith('weightcast register', 'docs/daemon.md'), [
    endpoint,
    ['--ranks 0-7', '--ranks 0-1'],
    checkpoint,
    ['/checkpoints/step-101', next],
    ['--name step-101', `--name ${basename(next)}`],
    ['status --watch', 'status'],
    // Others are still asked.
    ['weightcast stop', 'weightcast remove a'],
  ]);
  const script = `weightcast remove engine || true\n${text.replace(/ +#.*$/gm, '')}`;
  const output = await runText(['sh', '-ec', script], environment);
  assert.equal(output.match(/^a +updated; arrived holds/gm)?.length, 2, output);
  assert.match(output, new RegExp(`^instance +a; serving ${basename(next)}@`, 'm'));
});

test('the pages of the daemon and the publisher: what Python does', { skip: withoutPython() }, async () => {
  const here = [['range(8)', 'range(2)'], endpoint] as const;
  assert.match(await runPython('Client()', here, training, 'docs/daemon.md'), /^a updated \{/m);
  const published = await runPython('weightcast.connect()', here, training, 'docs/publisher.md');
  assert.equal(published.match(/outcome='updated'/g)?.length, 2, published);
});

test('the shell: a host joins a daemon', async () => {
  const join = ['tcp://10.0.0.1:7000', 'tcp://127.0.0.1:*'] as const;
  const [serve, file, agent] = replaced(snippetWith('weightcast agent'), [join])
    .split('\n')
    .map((line) => line.replace(/ +#.*$/, ''));
  const script = `
    cd '${scratch}'
    ${serve!.replace('weightcast serve', 'weightcast serve --devices host')} & served=$!
    trap 'kill $served' EXIT
    for try in $(seq 600); do weightcast status && break; sleep 0.2; done
    ${file}
    ${agent} 2>agent.log & joined=$!
    until grep 'has joined the cluster' agent.log; do kill -0 $joined; sleep 0.1; done
    weightcast stop
    wait $joined
    wait $served
    trap - EXIT`;
  const here = { ...environment, WEIGHTCAST_SOCKET: `${scratch}/other.sock` };
  assert.match(await runText(['sh', '-ec', script], here), /host node-2 has joined the cluster/);
});

test('the shell: scripts of the checkout', async () => {
  const { scripts } = JSON.parse(readFileSync(new URL('package.json', packageRoot), 'utf8'));
  const { text } = snippetWith('npm run demo');
  const named = [...text.matchAll(/npm (?:run )?(?!ci)([\w:]+)/g)].map(([, name]) => name!);
  assert.deepEqual(named, ['demo', 'test', 'test:clusters']);
  for (const name of named) assert.ok(name in scripts, name);
  const demo = [program('scenarios/demo.js'), '--size', '16MiB', '--ranks', '1'];
  await runText([process.execPath, ...demo], environment);
});

test('TypeScript: one instance, two instances, and one that joins late', async (t) => {
  const namespace = `${basename(scratch)}-ts`;
  const start = (firstDevice: number) =>
    startReferenceEngine({
      name: 'test',
      model,
      ranks: 1,
      firstDevice,
      deviceNamespace: namespace,
      deviceCapacity: 2 ** 27,
    });
  const [first, second] = await Promise.all([start(0), start(1)]);
  t.after(() => Promise.all([first.stop(), second.stop()]));
  const run = (words: string, replacements: Replacements) => {
    const path = join(scratch, 'snippet.mjs');
    const here = [
      ["'weightcast'", `'${program('src/index.js')}'`],
      ['Cluster.start({', `Cluster.start({ devices: { kind: 'host', namespace: '${namespace}' }, `],
      ['http://127.0.0.1:8000', first.endpoint],
      checkpoint,
    ] as const;
    writeFileSync(path, replaced(snippetWith(words), [...here, ...replacements]));
    return runText([process.execPath, path], environment);
  };

  const all = ['[0, 1, 2, 3, 4, 5, 6, 7]', '[0]'] as const;
  const single = ['ranks: 8', 'ranks: 1'] as const;
  assert.match(await run('const instances', [all, single]), /outcome: 'updated'/);
  const two = await run("name: 'b'", [
    ['ranks: 8', 'ranks: 2'],
    ['[0, 1, 2, 3]', '[0]'],
    ['[4, 5, 6, 7]', '[1]'],
    ['http://127.0.0.1:8001', second.endpoint],
  ]);
  assert.equal(two.match(/outcome: 'updated'/g)?.length, 2);
  const far = `${namespace}-far`;
  const places = [namespace, far].map((one) => ({ launcher: [], namespace: one, device: 2 }));
  const engineOptions = {
    name: 'test',
    model,
    ranks: 2,
    deviceNamespace: namespace,
    deviceCapacity: 2 ** 27,
  };
  const spanning = await startReferenceEngine({ ...engineOptions, places });
  t.after(() => spanning.stop());
  await run('tp16', [
    ['[0, 1, 2, 3, 4, 5, 6, 7]', '[2]'],
    ['ranks: 16', 'ranks: 2'],
    [first.endpoint, spanning.endpoint],
    ['tcp://10.0.0.1:7000', 'tcp://127.0.0.1:0'],
    ["['ssh', 'node-2']", `['env'], devices: { kind: 'host', namespace: '${far}' }`],
  ]);
  await run('addInstance', [
    all,
    single,
    ['tcp://10.0.0.1:7000', 'tcp://127.0.0.1:0'],
    ["['ssh', 'node-2']", "['env']"],
    ['http://node-2:8000', second.endpoint],
    ['[8, 9, 10, 11]', '[1]'],
  ]);
});
