/** The doctor's verdict on one part of a machine. */
export interface Finding {
  readonly subject: string;
  /** `slow`: works, but slower than the machine could. `missing`: absent, or does not work. */
  readonly verdict: 'ok' | 'slow' | 'missing';
  /** Whether no update can run on this machine without it. */
  readonly needed: boolean;
  /** What was found. */
  readonly what: string;
  /** The consequence and what to do about it; null if there is nothing to do. */
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
