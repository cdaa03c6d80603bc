/**
 * What the loopback device of a host must be allowed while packets come up the host's stack by way of it that the kernel
 * did not send there itself: to have an address of this host's own as source, and loopback addresses. The device is as
 * local as before: nothing gets to it from outside but what the datapath puts there.
 */
import { mkdir, readdir, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Turns } from '../turns.ts';
import type { Run } from './run.ts';

/** Below the pins, for as long as they live: a directory `NAME=VALUE` for each setting as it was. */
export const LOOPBACK_NOTES = 'loopback';
/** IPv6 has neither: it believes the loopback device of itself. `rp_filter`, be it 0, 1 or 2, is satisfied by the first. */
const SETTINGS = ['accept_local', 'route_localnet'] as const;

/** Allows it while flows need it, over restarts of the agent as well. */
export class Loopback {
  readonly #run: Run;
  readonly #notes: string;
  /** Flows that need it are being entered. */
  #entering = 0;
  /** An earlier agent may have left it so. */
  #isOpen = true;
  readonly #turns = new Turns();

  constructor(run: Run, pinDir: string) {
    this.#run = run;
    this.#notes = join(pinDir, LOOPBACK_NOTES);
  }

  /**
   * Runs a change of flows: `enters` says whether it enters one that needs the loopback device, `isNeeded`, asked after
   * it, whether any is left. OsmosisError DATAPATH where a setting can't be made; nothing is changed then.
   */
  async around(enters: boolean, change: () => Promise<void>, isNeeded: () => boolean): Promise<void> {
    this.#entering += enters ? 1 : 0;
    try {
      if (enters) await this.#turns.run(() => this.#open());
      await change();
    } finally {
      this.#entering -= enters ? 1 : 0;
      if (this.#isOpen) {
        await this.#turns.run(async () => {
          if (this.#entering === 0 && !isNeeded()) await this.restore();
        });
      }
    }
  }

  /** Puts everything back as it was noted; nothing to do where nothing was. */
  async restore(): Promise<void> {
    for (const note of await this.#noted()) {
      const [name = '', before = ''] = note.split('=');
      await this.#run('sysctl', ['-qw', `${settingOf(name)}=${before}`]);
      await rm(join(this.#notes, note), { recursive: true });
    }
    await rmdir(this.#notes).catch(() => {});
    this.#isOpen = false;
  }

  async #open(): Promise<void> {
    this.#isOpen = true;
    const noted = await this.#noted();
    for (const name of SETTINGS) {
      if (noted.some((note) => note.startsWith(`${name}=`))) continue;
      const before = (await this.#run('sysctl', ['-n', settingOf(name)])).trim();
      await mkdir(join(this.#notes, `${name}=${before}`), { recursive: true });
      await this.#run('sysctl', ['-qw', `${settingOf(name)}=1`]);
    }
  }

  async #noted(): Promise<string[]> {
    return await readdir(this.#notes).catch(() => []);
  }
}

function settingOf(name: string): string {
  return `net.ipv4.conf.lo.${name}`;
}
