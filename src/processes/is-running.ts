import { readFileSync } from 'node:fs';

/** False for a process that has ended, also before its parent has asked how. */
export function isRunning(pid: number): boolean {
  return startTimeOf(pid) !== null;
}

/** When a process was started, in ticks of the kernel's clock: another one with its number has another time. Null if it has ended. */
export function startTimeOf(pid: number): string | null {
  return fieldsOf(pid)?.[19] ?? null;
}

/** `R` for one that runs, `T` for one that is stopped, and so on (proc(5)). Null if it has ended. */
export function stateOf(pid: number): string | null {
  return fieldsOf(pid)?.[0] ?? null;
}

function fieldsOf(pid: number): readonly string[] | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // After the name in parentheses, which may hold anything: the state first, and the start time as the twentieth.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? null : fields;
  } catch {
    return null;
  }
}
