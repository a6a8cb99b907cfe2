/** What the doctor says of one thing of a machine. */
export interface Finding {
  readonly subject: string;
  /** `slow`: works, with less than the machine could do. `missing`: does not work, or is not there. */
  readonly verdict: 'ok' | 'slow' | 'missing';
  /** Without it no update runs on this machine. */
  readonly needed: boolean;
  readonly what: string;
  /** What to do about it; null where there is nothing to do. */
  readonly advice: string | null;
}

export function ok(subject: string, what: string, advice: string | null = null): Finding {
  return { subject, verdict: 'ok', needed: false, what, advice };
}

export function slow(subject: string, what: string, advice: string): Finding {
  return { subject, verdict: 'slow', needed: false, what, advice };
}

export function missing(subject: string, what: string, advice: string | null, needed = false): Finding {
  return { subject, verdict: 'missing', needed, what, advice };
}
