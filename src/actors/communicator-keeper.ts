import { ProtocolError } from '../errors.ts';
import type { Communicator, NewCommunicator } from './messages.ts';
import type { RankMember } from './update.ts';

/**
 * The communicator of all ranks. It is used from update to update; after a failure, or when a rank has been replaced,
 * its number is never used again and the next update has a rank create another one.
 */
export class CommunicatorKeeper {
  #number = 1;
  #held: Communicator | null = null;

  /** What a rank has to create before `members` can open a communicator; null while there is one to use again. */
  missing(members: readonly RankMember[]): NewCommunicator | null {
    if (this.#held !== null) return null;
    return {
      number: this.#number,
      hosts: new Set(members.map(({ host }) => host)).size,
      sharesDevices: new Set(members.map(({ deviceUuid }) => deviceUuid)).size < members.length,
    };
  }

  /** The communicator, whose id is `created` if one was missing. */
  hold(created: Uint8Array | null): Communicator {
    if (created !== null) this.#held = { number: this.#number, id: created };
    if (this.#held === null) throw new ProtocolError('a rank was asked for a communicator and created none');
    return this.#held;
  }

  lose(): void {
    this.#number += 1;
    this.#held = null;
  }
}
