/** What went through a transport, and what it threw away and why. */
export interface TransportCounters {
  /** Envelopes handed to ZeroMQ. */
  sent: number;
  /** Envelopes given to the listener. */
  received: number;
  /** Frames or envelopes that do not have the form they should have. */
  malformed: number;
  /** Well-formed frames of a session that is over or never was. */
  stray: number;
}

export function newCounters(): TransportCounters {
  return { sent: 0, received: 0, malformed: 0, stray: 0 };
}
