/** Reading /proc: small texts that may vanish between two looks. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** The text of a /proc file, or undefined where the process (or the file) is gone. */
export function procText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

export function procLink(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

export function procList(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
