import { EngineError } from '../errors.ts';
import { differences, type Held, placeKey, withoutForm } from '../plan/live-weights.ts';
import type { Clock } from '../ports.ts';
import type { CallOptions } from './engine-client.ts';
import { createEngineClient, type EngineOptions } from './engine-options.ts';
import { SurveySocket } from './worker-link/survey-socket.ts';

/** What engines hold that were started with a version of the weights, by the place of their workers. */
export interface BaselinePlace extends Held {
  /** Names of tensors that differ between two such engines: they are not compared. */
  readonly differing: readonly string[];
}

/**
 * Asks engines that were started with the same files, and not updated since, what they hold. They run on this host, and
 * nothing in them changes. Rejects with `EngineError`, `DeadlineError` or `AbortedError`.
 */
export async function surveyEngines(
  engines: readonly EngineOptions[],
  clock: Clock,
  options: CallOptions,
): Promise<BaselinePlace[]> {
  const places = new Map<string, BaselinePlace>();
  for (const engine of engines) {
    for (const held of await survey(engine, clock, options)) {
      const key = placeKey(held.place);
      const before = places.get(key);
      places.set(key, before === undefined ? { ...held, differing: [] } : joined(before, held));
    }
  }
  // Workers answer in any order.
  return [...places.keys()].sort().map((key) => places.get(key)!);
}

async function survey(engine: EngineOptions, clock: Clock, options: CallOptions): Promise<Held[]> {
  const client = createEngineClient(engine, clock);
  const socket = await SurveySocket.bind();
  try {
    const workers = await client.workers(options);
    if (workers?.protocol === 1) {
      throw new EngineError(
        `the workers of engine ${engine.endpoint} do not say what they hold: install this version of weightcast there`,
      );
    }
    await client.survey(socket.address, options);
    const held = socket.taken.map(({ names, ...live }): Held => ({ ...live, names: names ?? [] }));
    if (held.length > 0) return held;
    throw new EngineError(`no worker of engine ${engine.endpoint} has said what it holds`);
  } finally {
    socket.close();
    await client.close();
  }
}

/** Two starts with the same files: what differs now always may. */
function joined(before: BaselinePlace, held: Held): BaselinePlace {
  const differing = new Set(differences(before, held));
  const names = before.names.filter((name) => differing.has(withoutForm(name)));
  return { ...before, differing: [...new Set([...before.differing, ...names])] };
}
