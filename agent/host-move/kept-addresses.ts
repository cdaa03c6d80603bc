/**
 * Addresses that sockets of this host are bound to, kept as local ones while the host may lose them: on the loopback device,
 * beside the device that has them. So no socket notices that an address is gone, not for an instant: a datagram socket would
 * be told that its network is unreachable. Once an address is nowhere else, the host must not answer for it on a link, where
 * it may be somebody else's by now (`arp_ignore`), nor ask as it (`arp_announce`). IPv6 does neither.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { messageOf } from '../error.ts';

const COMMAND_MS_MAX = 5_000;
const SETTINGS = { arp_ignore: 1, arp_announce: 2 } as const;
const settingPath = (name: string) => `/proc/sys/net/ipv4/conf/all/${name}`;

type Log = { warn(fields: object, message: string): void };

export class KeptAddresses {
  readonly #directory: string;
  readonly #log: Log;
  readonly #kept: Set<string>;
  #away: ReadonlySet<string> = new Set();
  readonly #left: Set<string>;

  /** `directory`: where an agent that comes back finds what is kept. */
  constructor(directory: string, log: Log) {
    this.#directory = directory;
    this.#log = log;
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.#kept = new Set(this.#notes('address'));
    this.#left = new Set(this.#notes('leave'));
  }

  get all(): ReadonlySet<string> {
    return this.#kept;
  }

  /** This host has it for its sockets only: nobody reaches it here. */
  isAway(address: string): boolean {
    return this.#away.has(address);
  }

  /** Addresses that the operator is about to take away: flows go by others. */
  get left(): ReadonlySet<string> {
    return this.#left;
  }

  leave(address: string, undo: boolean): void {
    if (undo) {
      this.#left.delete(address);
      rmSync(this.#note('leave', address), { force: true });
    } else {
      writeFileSync(this.#note('leave', address), '', { mode: 0o600 });
      this.#left.add(address);
    }
  }

  /** One that has gone is left, and may come back as any other. */
  forgetLeft(usable: ReadonlySet<string>): void {
    for (const address of this.#left) if (!usable.has(address)) this.leave(address, true);
  }

  /** Exactly `wanted` is kept from here on. `usable`: what other devices have. */
  async keep(wanted: ReadonlySet<string>, usable: ReadonlySet<string>): Promise<void> {
    this.#away = new Set([...wanted].filter((address) => !usable.has(address)));
    this.#guard([...this.#away].some((address) => !address.includes(':')));
    for (const address of wanted) if (!this.#kept.has(address)) await this.#add(address);
    for (const address of this.#kept) if (!wanted.has(address)) await this.#remove(address);
  }

  async #add(address: string): Promise<void> {
    // Written down first: what is on the device and nowhere noted would stay for ever.
    writeFileSync(this.#note('address', address), '', { mode: 0o600 });
    if (await this.#ip('replace', address)) this.#kept.add(address);
  }

  async #remove(address: string): Promise<void> {
    await this.#ip('del', address);
    this.#kept.delete(address);
    rmSync(this.#note('address', address), { force: true });
  }

  /** Neither is chosen for what the host begins itself: of IPv4 by its scope, of IPv6 as a deprecated address. */
  async #ip(verb: 'replace' | 'del', address: string): Promise<boolean> {
    const isV6 = address.includes(':');
    const more =
      verb === 'del' ? [] : isV6 ? ['preferred_lft', '0', 'nodad'] : ['scope', 'host', 'label', 'lo:osmosis'];
    const args = ['addr', verb, `${address}/${isV6 ? 128 : 32}`, 'dev', 'lo', ...more];
    const { failed, stderr } = await execa('ip', args, { reject: false, timeout: COMMAND_MS_MAX });
    if (failed && verb === 'replace')
      this.#log.warn({ address, error: stderr.trim() }, 'an address could not be kept for its sockets');
    return !failed;
  }

  #guard(isNeeded: boolean): void {
    try {
      const noted = this.#notes('setting');
      for (const [name, value] of Object.entries(SETTINGS)) {
        const note = noted.find((each) => each.startsWith(`${name}=`));
        if (isNeeded && note === undefined) this.#set(name, value);
        if (!isNeeded && note !== undefined) {
          writeFileSync(settingPath(name), note.slice(name.length + 1));
          rmSync(this.#note('setting', note));
        }
      }
    } catch (error) {
      this.#log.warn({ error: messageOf(error) }, 'ARP could not be set for kept addresses');
    }
  }

  #set(name: string, value: number): void {
    const before = readFileSync(settingPath(name), 'utf8').trim();
    if (Number(before) >= value) return;
    writeFileSync(this.#note('setting', `${name}=${before}`), '', { mode: 0o600 });
    writeFileSync(settingPath(name), String(value));
  }

  #notes(kind: 'address' | 'leave' | 'setting'): string[] {
    return readdirSync(this.#directory)
      .filter((file) => file.startsWith(`${kind} `))
      .map((file) => file.slice(kind.length + 1));
  }

  #note(kind: 'address' | 'leave' | 'setting', name: string): string {
    return join(this.#directory, `${kind} ${name}`);
  }
}
