import { isOnDevice } from '../../checkpoint/file-identity.ts';
import { resumeCommand, wakeUp } from '../../engines/remedies.ts';
import { oldestProtocol } from '../../engines/worker-link/messages.ts';
import { contradiction } from '../../engines/workers-said.ts';
import { sizeRefusal } from '../../engines/world-size.ts';
import { AbortedError, asFailure, EngineError, UsageError, type WeightcastError } from '../../errors.ts';
import type { ActorRef, Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { type BridgeMessage, type EngineState, toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { UpdateContext, UpdateSpec, UpdateTarget } from './context.ts';
import { otherEngine } from './feeding.ts';
import { acceptsUnproven } from './open.ts';
import { stepTimeoutOf } from './step-timeout.ts';

/** Of the time that an update has: who gives it more waits longer for an engine that loads a large model. */
const startingShare = 1 / 5;

/** Engines that are ready together are updated together. Others, which may be starting, keep them waiting no longer than this. */
const togetherMilliseconds = 2_000;

/**
 * Calls `onUnfit` for targets that must not be updated, with the reason. Resolves when all others are healthy, or a moment
 * after some of them are, but for a checkpoint in the memory of devices: with those that are still waited for, each with what
 * resolves when it is healthy or unfit.
 */
export function awaitEngines(
  update: UpdateContext,
  targets: readonly UpdateTarget[],
  onUnfit: (target: UpdateTarget, error: WeightcastError) => void,
): Promise<ReadonlyMap<UpdateTarget, Promise<void>>> {
  const timeoutMilliseconds = patienceOf(update, targets);
  // Of these each round needs the ranks whose devices have the tensors.
  const isOnDevices = update.spec.checkpoint.segments.some(({ path }) => isOnDevice(path));
  const waiting = new Map<UpdateTarget, Promise<void>>();
  return new Promise((resolve) => {
    let cancel = () => {};
    let isAnyReady = false;
    const goOn = () => {
      cancel();
      resolve(new Map(waiting));
    };
    const decided = (target: UpdateTarget, isReady: boolean) => {
      waiting.delete(target);
      if (waiting.size === 0) return goOn();
      if (isReady && !isAnyReady && !isOnDevices)
        cancel = update.context.clock.after(togetherMilliseconds, goOn);
      isAnyReady ||= isReady;
    };
    for (const target of targets) {
      const work = awaitEngine(update, target, timeoutMilliseconds).then(
        () => decided(target, true),
        async (thrown) => {
          const error = asFailure(thrown);
          await Promise.allSettled(update.abandonCalls(error.message, [target]));
          onUnfit(target, error);
          decided(target, false);
        },
      );
      waiting.set(target, work);
    }
    if (targets.length === 0) goOn();
  });
}

/** How long an engine that is down, and may be starting, is waited for. */
function patienceOf(update: UpdateContext, targets: readonly UpdateTarget[]): number {
  const { readyTimeoutMilliseconds } = update.spec.options;
  if (readyTimeoutMilliseconds !== undefined) return update.left(readyTimeoutMilliseconds);
  const most = targets.length === 1 ? update.left() : update.left() / 2;
  const patience = Math.max(deadlines.engineHealthy, update.left() * startingShare);
  return Math.ceil(Math.min(most, patience));
}

/** Whether an engine says that it is paused; null if it cannot be asked, or does not answer in time. */
export async function saysPaused(
  context: Pick<Context<never>, 'ask' | 'clock'>,
  bridge: ActorRef<BridgeMessage>,
  timeoutMilliseconds: number,
): Promise<boolean | null> {
  const options = { deadlineMilliseconds: timeoutMilliseconds + deadlines.control };
  try {
    const question = { timeoutMilliseconds, workersMilliseconds: timeoutMilliseconds };
    return (await ask(context, bridge, toBridge.awaitHealthy, question, options)).isPaused;
  } catch {
    return null;
  }
}

async function awaitEngine(
  update: UpdateContext,
  target: UpdateTarget,
  timeoutMilliseconds: number,
): Promise<void> {
  const { context, spec } = update;
  const { name, bridge } = target;
  refuseSharedDevices(target, spec.ranks);
  // The bridge answers within the timeout, and in better words than a missed deadline.
  const within = update.within(timeoutMilliseconds + deadlines.control);
  try {
    const question = { timeoutMilliseconds, workersMilliseconds: stepTimeoutOf(update) };
    const state = await ask(context, bridge, toBridge.awaitHealthy, question, within);
    noteWorkers(spec, target, state);
    const lost = state.wasDown ? 'its engine was started again' : otherVersion(target, state);
    spec.instances.labelled(name, state.version);
    if (lost !== null) {
      spec.instances.engineChanged(name, lost);
      spec.feeding.demandWhole(name, otherEngine);
    }
    // One that may still pause is looked after, also when the update leaves it alone.
    if (state.isPaused === false && !target.mayStillPause) spec.instances.paused(name, false);
    refuseUnfit(target, state);
    refuseOtherSize(target, state);
    refuseWorkers(update, target, state);
    if (spec.options.baseline !== null) refuseSilent(target, state);
    if (spec.options.verify.answers !== undefined) await wouldAnswer(update, target, timeoutMilliseconds);
  } catch (thrown) {
    const isUnreachable = !(asFailure(thrown) instanceof AbortedError) && !isRefusal(thrown);
    if (isUnreachable) spec.instances.versionLost(name, asFailure(thrown).message);
    throw thrown;
  }
}

/** Why an engine that is well must not be updated now. */
class Refusal extends EngineError {}

function isRefusal(thrown: unknown): boolean {
  return thrown instanceof Refusal;
}

/** Why it does not serve what it was last given; null if it does, as far as it says. */
function otherVersion({ version, label }: UpdateTarget, state: EngineState): string | null {
  if (version === null) return null;
  return contradiction(version, {
    version: state.version,
    before: label,
    held: state.workers?.held ?? 'unknown',
  });
}

function noteWorkers({ workers }: UpdateSpec, { name }: UpdateTarget, state: EngineState): void {
  if (state.workers === null) workers.delete(name);
  else workers.set(name, state.workers);
}

/** What they would refuse when the engine is paused. */
function refuseWorkers(
  { spec }: UpdateContext,
  { name, endpoint, ranks }: UpdateTarget,
  state: EngineState,
): void {
  const { workers } = state;
  if (workers === null) return;
  const what = `instance ${name} (${endpoint})`;
  const draft = spec.exchanges > 1 ? workers.draft : null;
  const unproven = acceptsUnproven(spec.options) ? null : (workers.unproven ?? draft?.unproven ?? null);
  const refusal = workers.refusal ?? draft?.refusal ?? unproven;
  if (refusal !== null) throw new Refusal(`${what} cannot be updated: ${refusal}`);
  const own = spec.ranks.filter(({ rank }) => ranks.includes(rank)).map(({ deviceUuid }) => deviceUuid);
  const other = workers.devices.find((device) => !own.includes(device));
  if (other !== undefined)
    throw new Refusal(
      `${what} has a worker on device ${other}, and its ranks are on ${own.join(', ')}: give the instance the devices of its engine (devices, --devices)`,
    );
}

function refuseUnfit(target: UpdateTarget, { isPaused, isSleeping }: EngineState): void {
  const { name, endpoint, pause } = target;
  const what = `instance ${name} (${endpoint})`;
  if (pause === 'caller') {
    // Whoever pauses it also knows which of its memory is awake. A sleeping engine generates nothing.
    if (isPaused !== false || isSleeping === true) return;
    throw new Refusal(`${what} is not paused, and with pause "caller" it must be before an update`);
  }
  // That an earlier update has left paused. Its workers refuse weights that are not in memory.
  if (isPaused === true && (target.isPaused || target.mayStillPause)) return;
  const wake = wakeUp(target);
  const resume = `resume it (${resumeCommand(target)})`;
  // A vLLM that is paused says that it sleeps, too, and one that sleeps that it is paused; an LMDeploy pauses by sleeping.
  if (isSleeping === true && isPaused === true) {
    throw new Refusal(
      `${what} is asleep, or was paused by someone else: ${wake} or ${resume}, or use pause "caller"`,
    );
  }
  if (isSleeping === true) throw new Refusal(`${what} is asleep: ${wake}, or use pause "caller"`);
  if (isPaused === true) {
    const mixed =
      'if an update that failed has left it so, it may hold parts of two versions: update it with pause "caller" first';
    throw new Refusal(`${what} was paused by someone else: ${resume}, or use pause "caller"; ${mixed}`);
  }
}

/** Rejects where the engine would not answer us: it is not to be found out when its weights are new. */
async function wouldAnswer(
  update: UpdateContext,
  { bridge }: UpdateTarget,
  timeoutMilliseconds: number,
): Promise<void> {
  const within = update.within(timeoutMilliseconds + deadlines.control);
  const question = { prompts: [], timeoutMilliseconds };
  await ask(update.context, bridge, toBridge.answers, question, within).catch((thrown) => {
    const error = asFailure(thrown);
    throw error instanceof EngineError ? new Refusal(error.message, { cause: error }) : error;
  });
}

/** Its engine tells the workers apart by their devices. */
function refuseSharedDevices({ name, ranks }: UpdateTarget, ready: readonly ReadyRank[]): void {
  const ofTarget = new Set(ranks);
  const own = ready.filter(({ rank }) => ofTarget.has(rank));
  const first = new Map([...own].reverse().map((one) => [one.deviceUuid, one]));
  for (const { rank, host, deviceUuid } of own) {
    const other = first.get(deviceUuid)!;
    if (other.rank === rank) continue;
    const both = `ranks ${other.rank} (host ${other.host}) and ${rank} (host ${host})`;
    const names = deviceUuid.startsWith('HOST-')
      ? '; give the host devices of each host a namespace of their own (hosts: { NAME: { devices: { kind, namespace } } })'
      : '';
    throw new UsageError(`instance ${name}: ${both} both have the device ${deviceUuid}${names}`);
  }
}

/** Only workers of weightcast's own link say what their models hold. */
function refuseSilent({ name, endpoint, engine }: UpdateTarget, { workers }: EngineState): void {
  if (workers !== null && workers.protocol > oldestProtocol && engine !== 'sglang') return;
  throw new Refusal(
    `the workers of instance ${name} (${endpoint}) do not say what their models hold, so that nothing could be compared with the baseline: update it without one`,
  );
}

function refuseOtherSize({ name, endpoint, ranks }: UpdateTarget, { worldSize }: EngineState): void {
  const refusal = worldSize && sizeRefusal(`instance ${name} (${endpoint})`, ranks.length, worldSize);
  if (refusal !== null) throw new Refusal(refusal);
}
