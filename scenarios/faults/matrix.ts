import { Cell, other, type RealResult } from './cell.ts';
import type { RealFault } from './faults.ts';
import { FaultFleet } from './fleet.ts';
import { beforeFault } from './harness-error.ts';
import { type Settled, settledFleet } from './leaks.ts';
import { type CheckpointName, checkpoints, type RealMoment, realMoments, updateAll } from './moments.ts';
import { realFaults } from './real-faults.ts';

export interface RealCell {
  readonly fault: RealFault;
  readonly when: RealMoment;
  /** Why it is impossible; undefined if it is not. */
  readonly why: string | undefined;
}

/** All cells, those of one moment after the other. */
export function realCells(whyNoNetwork: string | undefined): RealCell[] {
  return realMoments.flatMap((when) =>
    realFaults.map((fault) => {
      // Only another host has an agent.
      const isOfNetwork = fault.who.startsWith('network') || fault.victim === 'agent';
      return {
        fault,
        when,
        why: isOfNetwork ? (whyNoNetwork ?? fault.impossible[when]) : fault.impossible[when],
      };
    }),
  );
}

async function registerAll(fleet: FaultFleet): Promise<void> {
  for (const [name, seed] of Object.entries(checkpoints))
    await fleet.owner.call('register', name, await fleet.model(seed));
}

/** Runs cells on a fleet, which one takes over from the other as long as it is whole. */
export class RealMatrix {
  #fleet: FaultFleet | null = null;
  #settled: Settled | null = null;
  #checkpoint: CheckpointName = 'one';
  /** Of ranks, agents and supervisors of the cluster that there is now. */
  #deaths = 0;
  /** After so many of them another cluster takes over. */
  readonly #mostDeaths: number;
  /** What an update takes when nothing happens, in milliseconds. */
  usual = 0;

  constructor(mostDeaths = 2) {
    this.#mostDeaths = mostDeaths;
  }

  async run({ fault, when }: RealCell): Promise<RealResult> {
    const fleet = await beforeFault(() => this.#whole());
    const cell = new Cell(fleet, this.#settled!, fault, when);
    this.#checkpoint = other(this.#checkpoint);
    try {
      const result = await cell.run(this.#checkpoint);
      this.#checkpoint = other(this.#checkpoint);
      // Leaks would be found again in each cell that follows.
      if (result.recovered === null || result.violations.length > 0) await this.end();
      else await this.#countDeaths(fault);
      return result;
    } catch (error) {
      await this.end();
      throw error;
    }
  }

  /** A rank, an agent or a supervisor that dies again and again is started more and more slowly, which is not what a cell is to show. */
  async #countDeaths({ victim, limit }: RealFault): Promise<void> {
    const isStartedAgain = victim !== null && ['feeds', 'receives', 'agent', 'supervisor'].includes(victim);
    if (!isStartedAgain && limit !== 'silence') return;
    this.#deaths += 1;
    if (this.#deaths < this.#mostDeaths) return;
    this.#deaths = 0;
    await this.#fleet!.renewOwner();
    await registerAll(this.#fleet!);
    // Until then the hosts hold parts, for which they need each other.
    await this.#updateToBoth(this.#fleet!);
  }

  async #updateToBoth(fleet: FaultFleet): Promise<void> {
    for (let turn = 0; turn < 2; turn += 1) {
      this.#checkpoint = other(this.#checkpoint);
      await updateAll(fleet, this.#checkpoint, true);
    }
  }

  async end(): Promise<void> {
    const fleet = this.#fleet;
    this.#fleet = null;
    await fleet?.end();
  }

  async #whole(): Promise<FaultFleet> {
    if (this.#fleet !== null) return this.#fleet;
    const fleet = new FaultFleet();
    this.#fleet = fleet;
    this.#deaths = 0;
    await fleet.start();
    await registerAll(fleet);
    const times: number[] = [];
    for (let turn = 0; turn < 4; turn += 1) {
      const begun = Date.now();
      this.#checkpoint = other(this.#checkpoint);
      await updateAll(fleet, this.#checkpoint, true);
      times.push(Date.now() - begun);
    }
    this.usual = times.sort((one, two) => one - two)[2]!;
    this.#settled = await settledFleet(fleet);
    return fleet;
  }
}
