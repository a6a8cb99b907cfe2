import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { Baseline } from '../../src/cluster/baseline.ts';
import { sendSurvey } from '../../src/engines/worker-link/survey-socket.ts';
import type { LiveDigests } from '../../src/engines/worker-link/worker-link.ts';
import { type Answer, fakeEngine, status } from './fake-engine.ts';

function live(digests: readonly bigint[], place: LiveDigests['place'] = { tp: '0 of 2' }): LiveDigests {
  const names = digests.map((_, row) => `layers.${row}.weight bfloat16[4](1)`);
  return { place, coverage: 'unknown', layout: 'aa', digests: BigUint64Array.from(digests), names };
}

/** A vLLM with our worker extension, whose workers say what they hold. */
async function engine(t: TestContext, workers: readonly LiveDigests[]): Promise<string> {
  const answer: Answer = async (request, response) => {
    // An SGLang is asked with GET.
    const { method, args } = JSON.parse(asked.at(-1)!.body || '{}');
    if (method === 'weightcast_survey') {
      for (const worker of workers) await sendSurvey(args[0], 'GPU-0', [worker]);
    }
    status(200, '{"results":[{"protocol":2}]}')(request, response);
  };
  const { asked, endpoint } = await fakeEngine(t, answer);
  return endpoint;
}

function scratch(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'weightcast-test-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return join(directory, 'baseline.json');
}

test('a baseline has what each worker of an engine holds, and survives its file', async (t) => {
  const second = live([7n], { tp: '1 of 2' });
  const endpoint = await engine(t, [live([1n, 2n ** 64n - 1n]), second]);
  const baseline = await Baseline.of([{ endpoint }]);
  assert.deepEqual(
    baseline.places.map(({ place, digests, differing }) => [place, [...digests], differing]),
    [
      [{ tp: '0 of 2' }, [1n, 2n ** 64n - 1n], []],
      [{ tp: '1 of 2' }, [7n], []],
    ],
  );
  const file = scratch(t);
  baseline.write(file);
  const { places } = Baseline.read(file);
  assert.deepEqual(
    places.map((place) => ({ ...place })),
    baseline.places.map(({ place, layout, names, digests, differing }) => {
      return { place, layout, names, digests, differing };
    }),
  );
});

test('what differs between two engines that were started with the same files is named', async (t) => {
  const endpoints = [await engine(t, [live([1n, 2n, 3n])]), await engine(t, [live([1n, 9n, 3n])])];
  const { places } = await Baseline.of(endpoints.map((endpoint) => ({ endpoint })));
  assert.equal(places.length, 1);
  assert.deepEqual(places[0]!.differing, ['layers.1.weight bfloat16[4](1)']);
});

test('an engine of which no worker says what it holds, or of another kind, has no baseline', async (t) => {
  const silent = await engine(t, []);
  await assert.rejects(Baseline.of([{ endpoint: silent }]), {
    name: 'EngineError',
    message: `no worker of engine ${silent} has said what it holds`,
  });
  const answer = status(500, '{"error":{"message":"no attribute weightcast_protocol"}}');
  const old = await fakeEngine(t, answer, { transferEngine: true });
  await assert.rejects(Baseline.of([{ endpoint: old.endpoint }]), { message: /install this version of/ });
  const sglang = { endpoint: silent, engine: 'sglang' } as const;
  await assert.rejects(Baseline.of([sglang]), { message: /is an SGLang/ });
  await assert.rejects(Baseline.of([]), { name: 'UsageError' });
});

test('a file that is no baseline is refused by its name', async (t) => {
  const file = scratch(t);
  assert.throws(() => Baseline.read(file), {
    name: 'UsageError',
    message: /cannot read the baseline .*ENOENT/,
  });
  (await Baseline.of([{ endpoint: await engine(t, [live([1n])]) }])).write(file);
  const text = readFileSync(file, 'utf8');
  for (const [from, to, what] of [
    [/baseline 1/, 'baseline 9', /format/],
    [/"0{15}1"/, '"1"', /tensors/],
    [/"layout"/, '"outlay"', /layout/],
  ] as const) {
    writeFileSync(file, text.replace(from, to));
    assert.throws(() => Baseline.read(file), { name: 'UsageError', message: what });
  }
});
