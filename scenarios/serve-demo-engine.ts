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

const command = new Command('serve-demo-engine')
  .description('Serve a model with dummy weights, by an engine that has the routes of vLLM and needs no GPU.')
  .requiredOption('--model <path>', 'checkpoint whose tensor names and shapes the model has')
  .option('--ranks <n>', 'tensor-parallel workers, each on a host device of its own', '1')
  .option('--host <address>', 'address to listen on', '127.0.0.1')
  .option('--port <n>', 'port to listen on; 0 takes any free port', '8000')
  .option('--devices <namespace>', 'namespace of the host devices', 'default')
  .option('--first-device <n>', 'device of the first worker', '0')
  .option('--device-memory <bytes>', 'size of each host device, such as 8GiB', '8GiB')
  .option('--name <name>', 'name of the served model', 'demo')
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
      `serving ${options.name} at ${engine.endpoint} on ${engine.deviceUuids.join(', ')}; Ctrl-C ends it\n`,
    );
    const how = await interruptible(engine.exited, signal);
    throw new PeerLostError(`the engine ended (${how})`);
  } finally {
    await engine.stop();
  }
}

await command.parseAsync();
