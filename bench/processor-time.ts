/** Milliseconds that processors have worked for this process so far: what others run beside it does not count. */
export function processorTime(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1_000;
}
