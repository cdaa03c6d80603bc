/** `osmosis install`, `osmosis upgrade`, `osmosis uninstall` */
import { type Installed, type InstallOptions, install, upgrade, type Where } from '../install/install.ts';
import { readPackage } from '../install/package-file.ts';
import { type UninstallOptions, uninstall } from '../install/uninstall.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';

type Output = HostOptions & { readonly json?: boolean };
export type InstallCommand = Output & InstallOptions & { readonly package?: string };

async function withHost(
  host: string,
  options: Output,
  action: (where: Where) => Promise<void>,
): Promise<void> {
  await withHosts(options, async (hosts, signal) => {
    const say = (text: string) => void (options.json || process.stderr.write(`${host}: ${text}\n`));
    await action({ hosts, host: await hosts.connect(host), signal, say });
  });
}

export async function runInstall(host: string, options: InstallCommand): Promise<void> {
  const file = await readPackage(options.package);
  await withHost(host, options, async (where) => {
    const installed = await install(where, file, options);
    if (options.json) printJson(reportOf(host, installed, options));
    else process.stdout.write(installedText(host, installed, options));
  });
}

export async function runUpgrade(host: string, options: InstallCommand): Promise<void> {
  const file = await readPackage(options.package);
  await withHost(host, options, async (where) => {
    const installed = await upgrade(where, file, options);
    if (options.json) printJson(reportOf(host, installed, options));
    else process.stdout.write(installedText(host, installed, options));
  });
}

export async function runUninstall(host: string, options: Output & UninstallOptions): Promise<void> {
  await withHost(host, options, async (where) => {
    const { dryRun } = options;
    const done = await uninstall(where, options);
    if (options.json) return printJson({ ok: true, host, ...(dryRun ? { dry_run: true } : {}), ...done });
    const what = done.changed ? done.releases.join(', ') : 'nothing was installed';
    const ended =
      done.uses.length === 0 ? '' : `; ${dryRun ? 'these would end' : 'ended'}: ${done.uses.join('; ')}`;
    process.stdout.write(`${host}: ${dryRun ? 'would remove' : 'removed'} ${what}${ended}\n`);
    for (const path of done.kept) process.stdout.write(`${host}: still there: ${path}\n`);
  });
}

function reportOf(host: string, installed: Installed, { dryRun }: InstallOptions): object {
  return { ok: true, host, ...(dryRun ? { dry_run: true } : {}), ...installed };
}

export function installedText(
  host: string,
  { version, release, before, changed, packages, systemd, agent }: Installed,
  { dryRun, apt }: InstallOptions,
): string {
  const lines: string[] = [];
  const did = dryRun ? 'would be' : 'is';
  if (packages.length > 0 && apt)
    lines.push(`Debian packages ${dryRun ? 'to be ' : ''}installed: ${packages.join(' ')}`);
  if (!changed) lines.push(`Osmosis ${version} (${release}) is there already`);
  else if (before !== undefined && before !== release)
    lines.push(`Osmosis ${version} (${release}) ${did} installed, in place of ${before}`);
  else lines.push(`Osmosis ${version} (${release}) ${did} installed`);
  if (agent === 'answers') lines.push(dryRun ? 'its agent would be started' : `its agent answers`);
  else
    lines.push(
      `no systemd there: its agent is ${agent}, by whatever keeps services up there: osmosis agent (where that is so already: --supervised)`,
    );
  if (!dryRun && changed && before === undefined && systemd)
    lines.push(
      'to have the host drained when it shuts down: systemctl enable --now osmosis-drain, with /etc/osmosis/fleet.yaml',
    );
  return lines.map((line) => `${host}: ${line}\n`).join('');
}
