import { Reporter } from '../src/cli/reporter.ts';
import { parseBytes, parseCount } from '../src/units.ts';
import { announce, scenario } from './scenario.ts';

interface Options {
  readonly size: string;
  readonly ranks: string;
  readonly json?: string;
}

/** What a scenario with two engines and a cluster is told. */
export interface FleetScene {
  /** Size of the model. */
  readonly bytes: number;
  /** Of each instance. */
  readonly ranks: number;
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
}

/** A scenario that begins with two engines, as a command. `defaults`: of its options --size and --ranks. */
export function fleetScenario(
  name: string,
  description: string,
  defaults: { readonly size: string; readonly ranks: string },
  run: (scene: FleetScene) => Promise<object>,
): Promise<unknown> {
  const start = async (options: Options, signal: AbortSignal): Promise<object> => {
    const ranks = parseCount(options.ranks, '--ranks');
    const bytes = parseBytes(options.size, '--size');
    const reporter = new Reporter();
    announce(
      `starting two engines with ${ranks === 1 ? '1 worker' : `${ranks} workers`} each, and a cluster`,
    );
    try {
      return await run({ bytes, ranks, reporter, signal });
    } finally {
      reporter.end();
    }
  };
  return scenario(name, description, start)
    .option('--size <bytes>', 'size of the generated model', defaults.size)
    .option('--ranks <n>', 'ranks of each instance', defaults.ranks)
    .parseAsync();
}
