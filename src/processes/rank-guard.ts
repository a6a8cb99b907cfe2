/**
 * Stands between a launcher and a rank on the launcher's host. A rank that hangs reads the end of its standard input as
 * little as anything else, and what kills the launcher here does not reach it there: this process lets the rank go, and
 * kills it if it does not end.
 */
import { constants } from 'node:os';
import { startProcess } from './child-process.ts';
import { takeLifeline } from './lifeline.ts';
import { stopTimes } from './stop-times.ts';
import { sweepSharedMemory } from './sweep.ts';

const { configuration, released, signalled } = await takeLifeline();
sweepSharedMemory();
const { stopTimeoutMilliseconds } = configuration as { stopTimeoutMilliseconds: number };
const rank = startProcess('./rank-process', import.meta.url, configuration as object);
const stop = () => void rank.stop(stopTimes(stopTimeoutMilliseconds).guard);
// A rank outlives its supervisor. It ends by itself if no other one comes.
void released.then((how) => (how === 'orphaned' ? rank.orphan() : stop()));
void signalled.then(stop);
const how = await rank.exited;
// What a rank that was killed has left.
sweepSharedMemory();
const code = /^exit code (\d+)$/.exec(how)?.[1];
// As shells say it, because launchers pass exit codes on and signals not: 128 plus the number of the signal.
process.exit(code === undefined ? 128 + (constants.signals[how as NodeJS.Signals] ?? 0) : Number(code));
