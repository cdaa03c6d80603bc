/** A package of `npm run package`, as install and upgrade send it. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { createGunzip } from 'node:zlib';
import { messageOf, OsmosisError } from '../../agent/error.ts';
import { VERSION } from '../../agent/version.ts';

/** A tar archive begins with a header of this size, that with the name: pax(1), ustar interchange format. */
const TAR_HEADER_BYTES = 512;
const TAR_NAME_BYTES = 100;
const TOP = /^osmosis-([0-9A-Za-z][0-9A-Za-z.+-]{0,62})\/$/;
/** Of the checksum, in the name of the release: packages of one version can differ. */
const SUM_DIGITS = 12;

export type PackageFile = {
  readonly path: string;
  readonly bytes: number;
  /** Hex. */
  readonly sha256: string;
  readonly version: string;
  /** Its folder at a host. */
  readonly release: string;
};

/** @throws OsmosisError INSTALL where there is none, or it is something else */
export async function readPackage(named: string | undefined): Promise<PackageFile> {
  const path = named ?? defaultPackage();
  const found = await stat(path).catch((cause: unknown) => {
    const how =
      named === undefined ? 'make it with npm run package, or name one with --package' : 'name another';
    throw new OsmosisError(
      'INSTALL',
      `no package at ${path} (${messageOf(cause)}): ${how}. Nothing was touched.`,
      {
        cause,
      },
    );
  });
  const [version, sha256] = await Promise.all([versionOf(path), sumOf(path)]);
  return { path, bytes: found.size, sha256, version, release: `${version}-${sha256.slice(0, SUM_DIGITS)}` };
}

function defaultPackage(): string {
  return fileURLToPath(new URL(`../../dist/osmosis-${VERSION}-linux-${process.arch}.tgz`, import.meta.url));
}

async function versionOf(path: string): Promise<string> {
  const file = createReadStream(path);
  const unpacked = createGunzip();
  file.on('error', (error) => unpacked.destroy(error));
  file.pipe(unpacked);
  let header = Buffer.alloc(0);
  try {
    for await (const chunk of unpacked as AsyncIterable<Buffer>) {
      header = Buffer.concat([header, chunk]);
      if (header.length >= TAR_HEADER_BYTES) break;
    }
  } catch (cause) {
    throw notOurs(path, messageOf(cause), cause);
  } finally {
    file.destroy();
    unpacked.destroy();
  }
  const name = header.subarray(0, TAR_NAME_BYTES).toString('latin1').replace(/\0.*$/s, '');
  const version = TOP.exec(name)?.[1];
  if (version === undefined) throw notOurs(path, 'it does not begin with a folder osmosis-VERSION');
  return version;
}

async function sumOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

function notOurs(path: string, why: string, cause?: unknown): OsmosisError {
  const message = `${path} is no package of Osmosis: ${why}. Make one with npm run package. Nothing was touched.`;
  return new OsmosisError('INSTALL', message, { cause });
}
