import { renameSync } from 'node:fs';
import { resolve } from 'node:path';
import * as z from 'zod';
import type { CheckpointIndex } from '../../src/checkpoint/source.ts';
import { protocolVersion } from '../../src/engines/worker-link/messages.ts';
import { EngineError } from '../../src/errors.ts';
import { Mapping } from '../../src/native-bridge/memory.ts';
import { layOutDump } from './model-tensors.ts';
import type { WorkerGroup } from './worker-group.ts';
import { type Call, settled } from './worker-handle.ts';

/** The version of an engine that was never updated. */
export const dummyVersion = 'dummy';
/** The version of an engine whose last update failed: it may hold parts of several. */
export const brokenVersion = 'broken';

/** How long a rank may be silent during an update, because it sometimes waits for other ranks. */
const usualSilenceSeconds = 600;

/** The state on which the methods operate. */
export interface EngineState {
  readonly index: CheckpointIndex;
  readonly workers: WorkerGroup;
  readonly hasDraftModel: boolean;
  /** `checkpoint@digest` of the weights that the workers hold, or one of the constants above. */
  version: string;
}

/** Throws errors with the text of Python's, which the engine passes on. */
type CollectiveMethod = (state: EngineState, args: readonly unknown[], timeout: number) => Call<unknown[]>;

/** The methods of `/collective_rpc` by name: those of vLLM's workers together with a worker extension's. */
export const collectiveMethods: ReadonlyMap<string, CollectiveMethod> = new Map<string, CollectiveMethod>([
  ['update_weights_from_weightcast', updateWeights],
  ['weightcast_protocol', sayProtocol],
  ['weightcast_survey', survey],
  ['weight_digests', ({ workers }, args, timeout) => call(workers, 'digestWeights', args, timeout)],
  ['device_memory', ({ workers }, args, timeout) => call(workers, 'deviceMemory', args, timeout)],
  ['dump_weights', dumpWeights],
]);

/** With the links, how long ranks may be silent, in seconds, and whether the draft model takes them, too. */
const links = z.union([
  z.tuple([z.record(z.string(), z.string())]),
  z.tuple([z.record(z.string(), z.string()), z.number().positive()]),
  z.tuple([z.record(z.string(), z.string()), z.number().positive(), z.boolean()]),
]);
const path = z.tuple([z.string().min(1)]);

function updateWeights(state: EngineState, args: readonly unknown[], timeout: number): Call<null[]> {
  const [addressOf, silenceSeconds = usualSilenceSeconds] = parseArguments(
    links,
    args,
    '{device uuid: link address}',
  );
  // In vLLM each worker looks up its own device, and the others wait in vain for their rank. Here no worker starts.
  for (const { deviceUuid } of state.workers.workers) {
    if (!Object.hasOwn(addressOf, deviceUuid)) throw new EngineError(`KeyError: '${deviceUuid}'`);
  }
  state.version = brokenVersion;
  const { result, done } = state.workers.callAll(
    'receiveWeights',
    ({ deviceUuid }) => ({
      address: addressOf[deviceUuid]!,
      timeoutMilliseconds: Math.min(timeout, silenceSeconds * 1_000),
    }),
    timeout,
  );
  return {
    done,
    result: result.then((received) => {
      const versions = new Set(received.map(({ epoch, version }) => `${version} of epoch ${epoch}`));
      if (versions.size !== 1) throw new EngineError(`the workers received ${[...versions].join(' and ')}`);
      state.version = received[0]!.version;
      return received.map(() => null);
    }),
  };
}

/** As `state_of` of python/weightcast/vllm_state.py. */
function sayProtocol({ workers, hasDraftModel, version }: EngineState): Call<object[]> {
  const draft = { takes: hasDraftModel ? 'apart' : 'none', why: null, refusal: null, unproven: null };
  const held = version === dummyVersion ? null : { version: version === brokenVersion ? null : version };
  const result = Promise.resolve(workers.workers.map(() => ({ protocol: protocolVersion, draft, held })));
  return { result, done: settled(result) };
}

function survey({ workers }: EngineState, args: readonly unknown[], timeout: number): Call<unknown[]> {
  const [address] = parseArguments(path, args, 'an address');
  return workers.callAll('survey', () => ({ address }), timeout);
}

/** All workers write their parts into one safetensors file, which is renamed to its final name when it is complete. */
function dumpWeights(state: EngineState, args: readonly unknown[], timeout: number): Call<null[]> {
  const destination = resolve(parseArguments(path, args, 'a path')[0]);
  const partial = `${destination}.partial-${process.pid}`;
  const { header, totalBytes } = layOutDump(state.index);
  const file = Mapping.create(partial, totalBytes);
  file.write(0, header);
  const { result, done } = state.workers.callAll('writeParts', () => ({ path: partial }), timeout);
  const written = result
    .then((results) => {
      renameSync(partial, destination);
      return results;
    })
    .finally(async () => {
      await done;
      file.unlink();
      file.close();
    });
  return { result: written, done: settled(written) };
}

function call(
  workers: WorkerGroup,
  method: 'digestWeights' | 'deviceMemory',
  args: readonly unknown[],
  timeout: number,
): Call<unknown[]> {
  parseArguments(z.tuple([]), args, 'no arguments');
  return workers.callAll(method, () => ({}), timeout);
}

function parseArguments<T>(schema: z.ZodType<T>, args: readonly unknown[], wanted: string): T {
  const parsed = schema.safeParse(args);
  if (parsed.success) return parsed.data;
  throw new EngineError(`TypeError: the method takes ${wanted}`);
}
