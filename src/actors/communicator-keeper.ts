import { strict as assert } from 'node:assert';
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
  #isNeeded = true;
  #isOffered = false;

  /**
   * What a rank has to create before `members` can open a communicator; null while there is one to use again, and for a
   * rank that is alone, which needs none.
   */
  missing(members: readonly RankMember[]): NewCommunicator | null {
    this.#isNeeded = members.length > 1;
    if (this.#held !== null || !this.#isNeeded) return null;
    return {
      number: this.#number,
      hosts: new Set(members.map(({ host }) => host)).size,
      sharesDevices: new Set(members.map(({ deviceUuid }) => deviceUuid)).size < members.length,
    };
  }

  /** `id` is what the rank that was asked has made of it; null if there was one to use again. */
  hold(id: Uint8Array | null): void {
    if (id !== null) this.#held = { number: this.#number, id };
    if (this.#isNeeded && this.#held === null)
      throw new ProtocolError('a rank was asked for a communicator and created none');
  }

  /** What ranks are told to open; null for one that is alone. */
  offer(): Communicator | null {
    if (!this.#isNeeded) return null;
    assert(this.#held !== null, 'a communicator is created before it is opened');
    this.#isOffered = true;
    return this.#held;
  }

  /** An update has failed. What nobody was told to open is kept: its creator waits for the members as long as it lives. */
  updateFailed(): void {
    if (this.#isOffered) this.lose();
  }

  /** A member is gone. */
  lose(): void {
    this.#number += 1;
    this.#held = null;
    this.#isOffered = false;
  }
}
