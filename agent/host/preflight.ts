/** What a destination must have before anything is touched: a pure comparison of two hosts and a process. */
import type { Check, FileFact, HostFacts, Snapshot } from '../control/protocol.ts';
import { congestionCheck } from '../proc/socket-options.ts';
import { isClosedPath } from '../sync/paths.ts';

/**
 * The oldest CRIU that works on a kernel: before 4.1 it does not start from 6.13 on ("Unexpected rt vDSO area bounds"),
 * before 4.2 it can't save a TCP socket from 6.16 on (SO_PASSCRED, criu issue 2705).
 */
export function criuMin(kernel: string): string {
  return compareVersions(kernel, '6.16') >= 0 ? '4.2' : '4.1';
}
/** An image and the memory that it is restored into live side by side for a while. */
const ROOM_FACTOR = 2;
const ROOM_SPARE_BYTES = 64 * 1024 * 1024;
/** Of a long list, this many are named. */
const NAMED_MAX = 5;

/** `lookup` says what the destination has at a path. `sync`: files are compared, and copied, elsewhere. */
export function preflightChecks(
  snapshot: Snapshot,
  own: HostFacts,
  lookup: (path: string, kind: FileFact['kind']) => FileFact | undefined,
  { sync = false } = {},
): Check[] {
  const files = sync ? snapshot.files.filter(isNeverCopied) : snapshot.files;
  return [
    criuCheck('CRIU at the source', snapshot.host),
    criuCheck('CRIU at the destination', own),
    kernelCheck(snapshot.host, own),
    cpuCheck(snapshot.host, own),
    roomCheck(snapshot, own),
    ...(sync && files.length === 0 ? [] : fileChecks(files, lookup)),
    ...congestionCheck(snapshot.socket_options, own.congestion),
  ];
}

/** Of a suspension: what its host must have. */
export function sourceChecks({ host, image_bytes }: Snapshot): Check[] {
  const needed = image_bytes + ROOM_SPARE_BYTES;
  const ok = host.room_bytes >= needed;
  const what = `${mebibytes(host.room_bytes)} free at the source, ${mebibytes(needed)} needed`;
  const remedy = 'for the image on its way; free memory there, or enlarge /run';
  return [
    criuCheck('CRIU at the source', host),
    { name: 'room', ok, message: ok ? what : `${what} ${remedy}` },
  ];
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 1024 / 1024)} MiB`;
}

function criuCheck(name: string, host: HostFacts): Check {
  const min = criuMin(host.kernel);
  const remedy = `install CRIU ${min} or newer on ${host.hostname}, which kernel ${host.kernel} needs`;
  if (host.criu === null)
    return { name, ok: false, message: `${host.hostname} has no working criu in PATH; ${remedy}` };
  const ok = compareVersions(host.criu, min) >= 0;
  return { name, ok, message: ok ? host.criu : `${host.hostname} has CRIU ${host.criu}; ${remedy}` };
}

/** Numeric, part by part: 4.1.1 is after 4.1. */
export function compareVersions(left: string, right: string): number {
  const [a, b] = [left, right].map((text) =>
    text.split(/[.-]/).map((part) => Number.parseInt(part, 10) || 0),
  );
  for (let index = 0; index < Math.max(a?.length ?? 0, b?.length ?? 0); index++) {
    const difference = (a?.[index] ?? 0) - (b?.[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function kernelCheck(source: HostFacts, own: HostFacts): Check {
  const [from, to] = [source.kernel, own.kernel].map((text) => text.split('.').slice(0, 2).join('.'));
  const ok = source.arch === own.arch && compareVersions(to ?? '', from ?? '') >= 0;
  const what = `${source.kernel} (${source.arch}) to ${own.kernel} (${own.arch})`;
  const remedy =
    'the destination must be of the same architecture and its kernel not older: choose another host or boot a newer kernel';
  return { name: 'kernel', ok, message: ok ? what : `${what}: ${remedy}` };
}

function cpuCheck(source: HostFacts, own: HostFacts): Check {
  const has = new Set(own.cpu_flags);
  const missing = source.cpu_flags.filter((flag) => !has.has(flag));
  if (missing.length === 0) return { name: 'cpu', ok: true, message: `${own.cpu_flags.length} features` };
  const remedy = 'the process may have chosen code for them at its start: choose a host that has them';
  return {
    name: 'cpu',
    ok: false,
    message: `${own.hostname} lacks CPU features of the source: ${some(missing)}; ${remedy}`,
  };
}

function roomCheck(snapshot: Snapshot, own: HostFacts): Check {
  const needed = snapshot.image_bytes * ROOM_FACTOR + ROOM_SPARE_BYTES;
  const sides = [
    { host: snapshot.host, what: 'the source', needed: snapshot.image_bytes + ROOM_SPARE_BYTES },
    { host: own, what: 'the destination', needed },
  ];
  const short = sides.find((side) => side.host.room_bytes < side.needed);
  return short === undefined
    ? {
        name: 'room',
        ok: true,
        message: `${mebibytes(own.room_bytes)} free at the destination, ${mebibytes(needed)} needed`,
      }
    : {
        name: 'room',
        ok: false,
        message: `${short.what} (${short.host.hostname}) has ${mebibytes(short.host.room_bytes)} free for image and memory, ${mebibytes(short.needed)} are needed; free memory, or enlarge /run`,
      };
}

function isNeverCopied({ path, kind }: FileFact): boolean {
  return kind === 'device' || isClosedPath(path);
}

function fileChecks(
  files: readonly FileFact[],
  lookup: (path: string, kind: FileFact['kind']) => FileFact | undefined,
): Check[] {
  const lacking: string[] = [];
  const differing: string[] = [];
  for (const file of files) {
    const here = lookup(file.path, file.kind);
    if (here === undefined) lacking.push(`${file.path} (${nameOf(file)})`);
    else if (isOther(file, here)) differing.push(`${file.path} (${nameOf(file)})`);
  }
  if (lacking.length + differing.length === 0)
    return [{ name: 'files', ok: true, message: `${files.length} needed, all there` }];
  const checks: Check[] = [];
  if (lacking.length > 0) {
    checks.push({
      name: 'files',
      ok: false,
      message: `the destination lacks ${some(lacking)}; copy or install them there first, or let --sync copy what it lacks`,
    });
  }
  if (differing.length > 0) {
    checks.push({
      name: 'files',
      ok: false,
      message: `the destination has another size or build of ${some(differing)}; bring both hosts to the same version`,
    });
  }
  return checks;
}

function nameOf(file: FileFact): string {
  return {
    executable: 'executable',
    mapped: 'mapped file',
    open: 'open file',
    directory: 'directory',
    device: 'device',
  }[file.kind];
}

function isOther(file: FileFact, here: FileFact): boolean {
  if (file.kind === 'directory' || here.kind === 'directory') return file.kind !== here.kind;
  return file.size !== here.size || (file.build_id !== undefined && file.build_id !== here.build_id);
}

function some(names: readonly string[]): string {
  const more = names.length - NAMED_MAX;
  return names.slice(0, NAMED_MAX).join(', ') + (more > 0 ? ` and ${more} more` : '');
}
