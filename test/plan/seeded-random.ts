import { SeededRandom } from '../../simulation/random.ts';

export { SeededRandom };

/** Runs a property for many seeds; a failure names the seed. */
export function forSeeds(count: number, property: (random: SeededRandom) => void): void {
  for (let seed = 1; seed <= count; seed += 1) {
    try {
      property(new SeededRandom(seed));
    } catch (error) {
      throw new Error(`with seed ${seed}: ${(error as Error).message}`, { cause: error });
    }
  }
}
