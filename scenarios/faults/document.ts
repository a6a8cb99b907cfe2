import { availableParallelism } from 'node:os';
import { silenceSeconds } from './fleet.ts';
import { bucketBytes, stepMilliseconds, updateMilliseconds } from './moments.ts';
import type { RealOutcome } from './real.ts';
import { type SimulatedCell, secondsOf } from './simulated.ts';

/** docs/failures.md. */
export function documentOf(
  simulated: string,
  real: readonly RealOutcome[],
  leftOut: readonly string[],
): string {
  return `# What becomes of failures

Made by \`npm run test:faults -- --real --write docs/failures.md\`, which may run a part of the cells at a time: the others are as
they were measured last.

${realPart(real, leftOut)}
${simulated}`;
}

const simulatedTitle = '## Simulated clusters';

/** That part of an earlier document; null if it has none. */
export function simulatedPartIn(document: string): string | null {
  const start = document.indexOf(`\n${simulatedTitle}\n`);
  return start < 0 ? null : document.slice(start + 1);
}

export function simulatedPart(simulated: readonly SimulatedCell[]): string {
  return `${simulatedTitle}

The actors are the real ones, what is around them is simulated, and seconds are virtual. They show which deadlines bound
what, not how fast a machine is. Six ranks on three hosts; two instances share the first host, one is on each of the others,
and the last one joins. An update has 20 s. No cell loses a registered checkpoint, violates an invariant, or leaves anything
behind: the run fails otherwise.

- **answered**: from the fault until the request that was under way was answered; when idle, until a status was. \`PEER_LOST\`
  says to ask again.
- **one version**: from the fault until updates that are asked for again and again have brought all instances to one version.
  An engine that died or hangs is restarted when the request has been answered.

| who | how | when | answer | answered | one version |
| --- | --- | --- | --- | --- | --- |
${simulated.flatMap(simulatedRow).join('\n')}

Impossible:

${reasons(simulated.map(({ who, how, when, why }) => ({ name: `${who}, ${how}`, when, why })))}
`;
}

function simulatedRow({ who, how, when, result }: SimulatedCell): string[] {
  if (result === null) return [];
  const { answer, answered, recovered } = result;
  return [`| ${who} | ${how} | ${when} | ${answer} | ${secondsOf(answered)} | ${secondsOf(recovered)} |`];
}

/** Why cells are impossible, each reason once. */
function reasons(
  cells: readonly { readonly name: string; readonly when: string; readonly why: string | undefined }[],
): string {
  const moments = new Map<string, string[]>();
  for (const { name, when, why } of cells) {
    if (why === undefined) continue;
    const reason = `${name}: ${why}`;
    moments.set(reason, [...(moments.get(reason) ?? []), when]);
  }
  return [...moments].map(([reason, when]) => `- ${when.join(', ')}: ${reason}`).join('\n');
}

function realPart(real: readonly RealOutcome[], leftOut: readonly string[]): string {
  if (real.length === 0) return '';
  const run = real.filter(({ why }) => why === undefined);
  const usual = run.map((cell) => cell.usual).filter((one) => one > 0);
  return `## Real processes

Processes of a real cluster are killed, stopped and cut off; its engines are reference engines on this machine, and answer
requests all the while. Two instances are on this host, one is on another, which is a network namespace; each has one rank.
A process that a fault point (\`WEIGHTCAST_FAULTS\`, CONTRIBUTING.md) has stopped at the moment goes on once the fault has
happened. No cell loses a checkpoint whose owner lives, fails a request to an engine that the fault does not touch, breaks an
invariant (an instance holds what it says, bit by bit; an engine that is paused is said to be; what a fault does not touch is not broken),
or leaves a process, a descriptor or anything in /dev/shm behind: the run fails otherwise. Times depend on the machine, here
${availableParallelism()} cores that others used too, and are shown beside the limits that we want to hold, not judged; an update took
${secondsOf(Math.min(...usual), 2)} to ${secondsOf(Math.max(...usual), 2)} when nothing happened.

Deadlines of these runs: silence after which a process is taken for dead ${silenceSeconds} s (by default 10 s), an answer of an engine
worker, and an engine that is down when an update begins, ${stepMilliseconds / 1_000} s, an update ${updateMilliseconds / 1_000} s; buckets have ${bucketBytes / 2 ** 20} MiB.

- **detected**: until a status, an event or the answer showed it; a dash where nothing has to be.
- **answered**: until the request that was under way was answered; when idle, a status. For an owner that died, until all of
  its processes had ended; one that was stopped goes on after ${silenceSeconds + 1} s.
- **back**: until another process is ready in place of the one that died: a supervisor that knows all that was registered, a rank
  that lends its segments.
- **one version**: until updates that are asked for again and again have brought all instances to one version. Engines, owner and
  cluster are started again when the request has been answered, where they have died; that is part of it.
- **lost**: registered bytes that were gone. What an owner has registered ends with it.
- **measured**: when, and the load: processes that wanted to run, on average of the minute before. Where none is said, the machine
  was busy: ten times as many processes wanted to run as it has cores.

In brackets the limit; **bold** is beyond it.

| who | how | when | answer | detected | answered | back | one version | lost | measured |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
${run.map(realRow).join('\n')}

Impossible:

${reasons(real.map(({ fault, when, why }) => ({ name: `${fault.who}, ${fault.how}`, when, why })))}

${leftOut.length === 0 ? '' : `Never run, or not brought about: ${leftOut.join('; ')}.\n`}
What is beyond a limit, and why:

${knownReasons}
`;
}

function realRow({ fault, when, result, limits, problems, date, load }: RealOutcome): string {
  const { who, how } = fault;
  if (result === null)
    return `| ${who} | ${how} | ${when} | **not run: ${problems.join('; ')}** | | | | | | |`;
  const { answer, detected, answered, back = null, recovered, lostBytes } = result;
  const times = [
    detected === null ? '–' : withLimit(detected, limits.detected),
    withLimit(answered, limits.answered),
    back === null ? '–' : withLimit(back, limits.back),
    secondsOf(recovered, 2),
  ];
  const isOver = when === 'start' || when === 'stopping';
  const lost = isOver ? '–' : lostBytes === 0 ? '0' : `${Math.round(lostBytes / 2 ** 20)} MiB`;
  const day = date?.slice(0, 10) ?? '';
  const measured = load === null ? day : `${day} ${date?.slice(11, 16)}, load ${load.toFixed(1)}`;
  return `| ${who} | ${how} | ${when} | ${answer} | ${times.join(' | ')} | ${lost} | ${measured} |`;
}

function withLimit(milliseconds: number | null, limit: number | null): string {
  const time = secondsOf(milliseconds, 2);
  if (limit === null) return time;
  const shown = milliseconds === null || milliseconds > limit ? `**${time}**` : time;
  return `${shown} (${secondsOf(limit, 1)})`;
}

const knownReasons = `- A rank that hangs at its start: the deadline of a start, here 20 s, by default 60 s (\`startTimeoutMilliseconds\`), and what
  it gets to end by itself; the same for a host that is cut off then.
- An owner that dies: its supervisor resumes the engines and ends the ranks before it ends itself. While engines are asked to
  pause it takes a thirtieth of \`stopTimeoutMilliseconds\` more, as an answer that is due may still take effect.`;
