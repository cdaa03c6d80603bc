/** `osmosis inspect` */
import { access } from 'node:fs/promises';
import { endpointText } from '../../agent/address.ts';
import { EXIT_STATUS } from '../../agent/error.ts';
import { bytesText, countText, plainText } from '../display/format.ts';
import { FORMAT_VERSION } from '../stored/format.ts';
import type { SealedMetadata } from '../stored/metadata.ts';
import { ImageFileReader } from '../stored/reader.ts';
import { type SecretOptions, secretFor, usesPassphrase } from '../stored/secret.ts';
import { type HostOptions, printJson } from './hosts.ts';

export type InspectOptions = HostOptions & SecretOptions & { readonly json?: boolean };

export async function runInspect(file: string, options: InspectOptions): Promise<void> {
  const reader = await ImageFileReader.open(file);
  try {
    const facts = imageFacts(reader);
    const intact = await reader.isIntact();
    const sealed = await sealedOf(reader, options);
    if (options.json) printJson({ ok: intact, ...facts, intact, ...(sealed && { sealed }) });
    else process.stdout.write(inspectText(facts, intact, sealed));
    if (!intact) process.exitCode = EXIT_STATUS.IMAGE_CORRUPT;
  } finally {
    await reader.close();
  }
}

/** With a key that was named, or that lies where it is expected. */
async function sealedOf(reader: ImageFileReader, options: InspectOptions) {
  const named = options.keyFile !== undefined || usesPassphrase(options);
  const isThere =
    reader.key.kind === 'key' &&
    (await access(`${reader.path}.key`).then(
      () => true,
      () => false,
    ));
  if (!named && !isThere) return undefined;
  const { metadata } = await reader.unlock(await secretFor(reader.path, reader.key, options));
  return sealedFacts(metadata);
}

type Facts = ReturnType<typeof imageFacts>;
type SealedFacts = ReturnType<typeof sealedFacts>;

/** What anybody who has the file can read. Times are ISO 8601. */
export function imageFacts({ path, clear, state, key, bytes }: ImageFileReader) {
  const { suspended_at, ...rest } = clear;
  const { state: name, attempts, at, host } = state;
  return {
    file: path,
    format: FORMAT_VERSION,
    key: key.kind,
    ...rest,
    suspended_at: new Date(suspended_at).toISOString(),
    state: name,
    resumptions: attempts,
    ...(host === '' ? {} : { last: { host, at: new Date(at).toISOString() } }),
    bytes,
  };
}

/** What needs the key. Keys of sessions are told to nobody. */
export function sealedFacts({ snapshot, sessions, published, image }: SealedMetadata) {
  return {
    processes: snapshot.processes.map(({ inner_pid, command, uid, resident_bytes }) => ({
      pid: inner_pid,
      command,
      uid,
      resident_bytes,
    })),
    flows: snapshot.flows,
    dropped: snapshot.dropped,
    listeners: snapshot.listeners,
    published,
    peers: sessions.map(({ peer, epoch }) => ({ address: peer, epoch })),
    image: { bytes: image.bytes, files: image.files, sha256: Buffer.from(image.sha256).toString('hex') },
  };
}

const STATE_TEXTS = {
  undecided: 'its suspension was cut off: resuming it asks the source whether it was given up',
  stored: 'suspended, to be resumed',
  resuming: 'was about to be resumed; how that ended was not written down',
  resumed: 'has been resumed: of no use any more',
  discarded: 'was given up: of no use any more',
  void: 'was never suspended for good: of no use',
} as const;

function inspectText(facts: Facts, intact: boolean, sealed: SealedFacts | undefined): string {
  const { cell, host, state, last } = facts;
  const lines = [
    `${cell}: ${STATE_TEXTS[state]}${last === undefined ? '' : ` (${last.at}, ${last.host})`}`,
    `  suspended ${facts.suspended_at} on ${host.hostname} (Linux ${host.kernel}, ${host.arch}, CRIU ${host.criu ?? '?'})`,
    `  ${countText(facts.processes, 'process', 'processes')}, ${countText(facts.flows, 'connection')}, ${bytesText(facts.bytes)}, format ${facts.format}`,
    `  ${intact ? 'whole: its checksum agrees' : 'DAMAGED: its checksum does not agree'}`,
    ...(sealed === undefined
      ? [`  sealed with a ${facts.key === 'key' ? 'key file' : 'passphrase'}; with it more can be said`]
      : sealedLines(sealed)),
  ];
  return lines.map((line) => `${line}\n`).join('');
}

function sealedLines({ processes, flows, listeners, peers }: SealedFacts): string[] {
  return [
    ...processes.map(({ pid, command }) => `  process ${pid} ${plainText(command)}`),
    ...listeners.map((listener) => `  listens on ${listener.protocol} ${endpointText(listener)}`),
    ...flows.map(
      ({ protocol, local, remote, at }) =>
        `  ${protocol} ${endpointText(local)} to ${endpointText(remote)}, held by ${at.address}`,
    ),
    ...peers.map(({ address, epoch }) => `  peer ${address}, epoch ${epoch}`),
  ];
}
