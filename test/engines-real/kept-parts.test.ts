import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { allArrived } from '../../simulation/all-arrived.ts';
import { packageRoot } from '../../src/package-root.ts';
import { freePorts } from '../free-ports.ts';
import { Program } from '../program.ts';
import { startCluster } from './one-engine.ts';
import { model, skip, startOnCpu } from './vllm-server.ts';

type Cut = readonly [dim: number, start: number, length: number];

/** How the workers of kept_parts_case.py cut experts, and how many tensors they then share in which way. */
const kinds = {
  'tensor-parallel': { split: 54, whole: 15, one: 0, wrong: 0 },
  'expert-parallel': { split: 6, whole: 15, one: 48, wrong: 0 },
} as const;

/** What one says of either. */
interface Worker {
  readonly cuts: Readonly<Record<string, Cut>>;
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  readonly equal: boolean;
  readonly changed: boolean;
  /** After the update by parts, and the one without the tensors of which it keeps nothing. */
  readonly coverage: readonly string[];
}

type Said = Readonly<Record<keyof typeof kinds, Worker>>;

const folder = (path: string) => fileURLToPath(new URL(path, packageRoot));

/** Two tensor-parallel workers, each with the model and a sender of its own. */
async function workers(t: TestContext, old: string, next: string) {
  const port = await freePorts(1);
  const variables = {
    PYTHONPATH: [process.env.WEIGHTCAST_VLLM_PACKAGES, folder('test/python')].join(':'),
  };
  const run = async (rank: number): Promise<Said> => {
    const program = folder('test/engines-real/kept_parts_case.py');
    const words = [process.env.WEIGHTCAST_VLLM_PYTHON!, program, `${rank}`, `${port}`, old, next];
    const output = await new Program(t, words, { variables }).succeeded();
    return JSON.parse(output.trim().split('\n').at(-1)!) as Said;
  };
  return Promise.all([run(0), run(1)]);
}

/** Whether the cuts of a tensor have each of its indices once, or all of it for one rank at least. */
function share(cuts: readonly Cut[], shape: readonly number[]): 'split' | 'whole' | 'one' | 'wrong' {
  if (cuts.every(([dim]) => dim === 255)) return 'whole';
  if (cuts.some(([dim]) => dim === 255)) return cuts.some(([, , length]) => length > 0) ? 'wrong' : 'one';
  const [first, second] = cuts as [Cut, Cut];
  const joins = first[0] === second[0] && first[1] === 0 && first[2] === second[1];
  return joins && second[1] + second[2] === shape[first[0]] ? 'split' : 'wrong';
}

test('real workers say what they keep, and hold the same from that as from whole tensors', {
  skip,
}, async (t) => {
  const said = await workers(t, model('experts-A'), model('experts-B'));
  for (const kind of Object.keys(kinds) as (keyof typeof kinds)[]) {
    await t.test(kind, () => {
      const both = said.map((one) => one[kind]);
      for (const { equal, changed, coverage } of both)
        assert.deepEqual(
          { equal, changed, coverage },
          { equal: true, changed: true, coverage: ['complete', 'complete'] },
        );
      const counts = { split: 0, whole: 0, one: 0, wrong: 0 };
      for (const [name, shape] of Object.entries(both[0]!.shapes)) {
        const how = share(
          both.map(({ cuts }) => cuts[name]!),
          shape,
        );
        counts[how] += 1;
        assert.notEqual(how, 'wrong', `${name}: ${JSON.stringify(both.map(({ cuts }) => cuts[name]))}`);
      }
      assert.deepEqual(counts, kinds[kind]);
    });
  }
});

test('a vLLM of two workers answers after updates by parts as one that was started with the weights', {
  skip,
}, async (t) => {
  const options = ['--weight-transfer-config', '{"backend": "weightcast"}', '--tensor-parallel-size', '2'];
  const server = await startOnCpu(t, 'A', options);
  const ofA = await server.answers();
  const cluster = await startCluster(t, { endpoint: server.endpoint }, 2);
  const update = async (name: string, fed: string) => {
    await cluster.register(name, model(name));
    const report = await cluster.update(name);
    await cluster.unregister(name);
    assert.equal(report.instances[0]!.fed, fed, `${report.instances[0]!.whyWhole}`);
    assert.ok(allArrived(report));
    return report;
  };
  await update('B', 'whole');
  const ofB = await server.answers();
  assert.notDeepEqual(ofA, ofB);
  for (const [name, answers] of [
    ['A', ofA],
    ['B', ofB],
  ] as const) {
    const report = await update(name, 'parts');
    assert.deepEqual(await server.answers(), answers);
    for (const { uploadedBytes, broadcastBytes } of report.links) {
      assert.equal(broadcastBytes, 0);
      assert.ok(uploadedBytes < report.bytes * 0.51, `${uploadedBytes} of ${report.bytes} bytes`);
    }
  }

  await t.test('and a call that fails in both leaves no answers to the next', async () => {
    const call = async (method: string, ...args: unknown[]) =>
      ((await server.post('/collective_rpc', { method, args })) as { results: Record<string, unknown>[] })
        .results;
    for (const { error } of await call('update_weights_from_weightcast', {}))
      assert.match(String(error), /WEIGHTCAST_DEVICE_UUID/);
    const { version } = (await cluster.status()).instances[0]!;
    const held = { version: `${version!.checkpoint}@${version!.digest}` };
    for (const said of await call('weightcast_protocol'))
      assert.deepEqual([said.protocol, said.refusal, said.held], [2, null, held]);
    assert.deepEqual(await server.answers(), ofB);
  });

  await t.test('and another cluster that updates it takes its version from the first', async (t) => {
    const other = await startCluster(t, { endpoint: server.endpoint }, 2);
    await other.register('A', model('A'));
    await other.update('A');
    assert.deepEqual(await server.answers(), ofA);
    const [instance] = (await cluster.status()).instances;
    assert.deepEqual([instance!.state, instance!.version], ['unknown', null]);
    assert.match(instance!.problem!, /workers hold A@.*, not B@.*someone else has updated it/);
    assert.equal((await other.status()).instances[0]!.state, 'serving');
  });
});
