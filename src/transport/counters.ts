/** What a transport carried, and what it dropped and why. */
export interface TransportCounters {
  /** Envelopes handed to ZeroMQ. */
  sent: number;
  /** Of these, encoded. */
  sentBytes: number;
  /** Envelopes given to the listener. */
  received: number;
  /** Frames or envelopes that could not be parsed. */
  malformed: number;
  /** Well-formed frames of a session that has ended or never existed. */
  stray: number;
}

export function newCounters(): TransportCounters {
  return { sent: 0, sentBytes: 0, received: 0, malformed: 0, stray: 0 };
}
