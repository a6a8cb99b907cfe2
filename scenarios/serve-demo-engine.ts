import { Command } from 'commander';
import { interruptible, runCommand } from '../src/cli/interrupt.ts';
import { PeerLostError } from '../src/errors.ts';
import { parseBytes, parseCount } from '../src/units.ts';
import { startReferenceEngine } from './reference-engine/index.ts';

interface Options {
  readonly model: string;
  readonly ranks: string;
  readonly host: string;
  readonly port: string;
  readonly devices: string;
  readonly firstDevice: string;
  readonly deviceMemory: string;
  readonly name: string;
}

const command = new Command('npx tsx scenarios/serve-demo-engine.ts')
  .description(
    "Serve a model with dummy weights by the reference engine, which has vLLM's HTTP API and needs no GPU.",
  )
  .requiredOption('--model <path>', 'checkpoint that defines the names and shapes of the tensors')
  .option('--ranks <n>', 'number of tensor-parallel workers, each on its own host device', '1')
  .option('--host <address>', 'address to listen on', '127.0.0.1')
  .option('--port <n>', 'port to listen on; 0 takes any free port', '8000')
  .option(
    '--devices <namespace>',
    'namespace of the host devices, as in --devices host:NAMESPACE of weightcast update',
    'default',
  )
  .option('--first-device <n>', 'device of the first worker', '0')
  .option('--device-memory <bytes>', 'size of each host device, such as 8GiB', '8GiB')
  .option('--name <name>', 'name of the served model', 'demo')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
  .action((options: Options) => runCommand((signal) => serve(options, signal)));

async function serve(options: Options, signal: AbortSignal): Promise<void> {
  const engine = await startReferenceEngine({
    name: options.name,
    model: options.model,
    ranks: parseCount(options.ranks, '--ranks'),
    deviceNamespace: options.devices,
    firstDevice: parseCount(options.firstDevice, '--first-device', 0),
    deviceCapacity: parseBytes(options.deviceMemory, '--device-memory'),
    host: options.host,
    port: parseCount(options.port, '--port', 0),
  });
  try {
    process.stdout.write(
      `serving ${options.name} at ${engine.endpoint} on ${engine.deviceUuids.join(', ')}; press Ctrl-C to stop\n`,
    );
    const how = await interruptible(engine.exited, signal);
    throw new PeerLostError(`the engine ended (${how})`);
  } finally {
    await engine.stop();
  }
}

await command.parseAsync();
