import { AbortedError, asFailure, EngineError } from '../../errors.ts';
import { ask } from '../protocol/ask.ts';
import { type EngineState, toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';

/** Resolves when all engines are healthy. Rejects with an `EngineError` that names one whose state forbids an update. */
export async function awaitEngines(update: UpdateContext): Promise<void> {
  const timeoutMilliseconds = update.left(deadlines.engineHealthy);
  // The bridge answers within the timeout, and in better words than a missed deadline.
  const within = update.within(timeoutMilliseconds + deadlines.control);
  const { targets, instances } = update.spec;
  await Promise.all(
    targets.map(async (target) => {
      const { name, bridge } = target;
      try {
        const state = await ask(
          update.context,
          bridge,
          toBridge.awaitHealthy,
          { timeoutMilliseconds },
          within,
        );
        if (state.wasDown || isOfOtherVersion(target, state)) instances.versionLost(name);
        if (state.isPaused === false) instances.paused(name, false);
        refuseUnfit(target, state);
        if (state.linkProtocol !== null) update.linkProtocols.set(name, state.linkProtocol);
      } catch (thrown) {
        const isUnreachable = !(asFailure(thrown) instanceof AbortedError) && !isRefusal(thrown);
        if (isUnreachable) instances.versionLost(name);
        throw thrown;
      }
    }),
  );
}

/** Why an engine that is well must not be updated now. */
class Refusal extends EngineError {}

function isRefusal(thrown: unknown): boolean {
  return thrown instanceof Refusal;
}

/** It was restarted, or someone else has updated it. */
function isOfOtherVersion({ version }: UpdateTarget, state: EngineState): boolean {
  return version !== null && state.version !== null && state.version !== version;
}

function refuseUnfit(target: UpdateTarget, { isPaused, isSleeping }: EngineState): void {
  const { name, endpoint, pause } = target;
  const what = `instance ${name} (${endpoint})`;
  if (pause === 'caller') {
    // Whoever pauses it also knows which of its memory is awake. A sleeping engine generates nothing.
    if (isPaused !== false || isSleeping === true) return;
    throw new Refusal(`${what} is not paused, and with pause "caller" it must be before an update`);
  }
  if (isSleeping === true) {
    throw new Refusal(
      `${what} is asleep: wake it up before an update (POST /wake_up), or use pause "caller"`,
    );
  }
  if (isPaused === true && !target.isPaused) {
    throw new Refusal(
      `${what} was paused by someone else: resume it (weightcast resume --endpoint ${endpoint}), or use pause "caller"`,
    );
  }
}
