import { readFileSync } from 'node:fs';

/** The process of the supervisor of this process's only cluster. Ranks that have outlived one are no children of theirs. */
export function supervisorPid(): number {
  const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim().split(' ');
  const isSupervisor = (pid: string) =>
    /supervisor-process/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8'));
  return Number(children.find(isSupervisor));
}
