/**
 * A program of its own: how many H2O messages are sealed, and decoded and opened, in a second of CPU; and how many times the
 * cipher alone does the same bytes. Prints one line of JSON. docs/bench.md has the figures.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { decode, newCellId, newTransaction } from '../wire/h2o.ts';
import { isDrop, SEALED_HEADER_BYTES } from '../wire/h2o-layout.ts';
import { createMove, deriveSession, generateKeyPair, open } from '../wire/h2o-session.ts';
import { SEAL_BYTES } from '../wire/seal.ts';

/** The cipher, by Node's name. */
const AEAD = 'chacha20-poly1305';
const NONCE_BYTES = 12;
const MESSAGES = 20_000;
const MESSAGES_FIRST = 2_000;

/** A MOVE with one label: what a server's peers get. */
function scene() {
  const [cellKeys, peerKeys] = [generateKeyPair(), generateKeyPair()];
  const session = deriveSession({
    cell: newCellId(),
    epoch: 0,
    cellPublicKey: cellKeys.publicKey,
    peerPublicKey: peerKeys.publicKey,
    secretKey: cellKeys.secretKey,
    role: 'cell',
  });
  if (isDrop(session)) throw new Error(`no session: ${session.drop}`);
  const virtual = { address: '10.77.1.2', port: 7000 };
  const wire = { address: '10.77.2.2', port: 40_000 };
  const move = {
    nextPublicKey: generateKeyPair().publicKey,
    transaction: newTransaction(),
    labels: [{ protocol: 'tcp', virtual, wire, peer: '10.77.4.2' }] as const,
  };
  return { session, move };
}

function perSecond(step: (number: number) => void): number {
  for (let number = 1; number <= MESSAGES_FIRST; number++) step(number);
  // CPU time: what else the machine does is not counted.
  const started = process.cpuUsage();
  for (let number = 1; number <= MESSAGES; number++) step(number);
  const { user, system } = process.cpuUsage(started);
  return (MESSAGES * 1_000_000) / (user + system);
}

function rates() {
  const { session, move } = scene();
  const datagram = createMove(session, { ...move, epoch: 1 });
  const aad = datagram.subarray(0, SEALED_HEADER_BYTES);
  const sealed = datagram.subarray(SEALED_HEADER_BYTES);
  const plaintext = randomBytes(sealed.length - SEAL_BYTES);
  const nonce = randomBytes(NONCE_BYTES);
  const encipher = () => {
    const cipher = createCipheriv(AEAD, session.toPeer, nonce, { authTagLength: SEAL_BYTES });
    cipher.setAAD(aad, { plaintextLength: plaintext.length });
    return [cipher.update(plaintext), cipher.final(), cipher.getAuthTag()] as const;
  };
  const [ciphertext, , tag] = encipher();
  const decipher = () => {
    const cipher = createDecipheriv(AEAD, session.toPeer, nonce, { authTagLength: SEAL_BYTES });
    cipher.setAAD(aad, { plaintextLength: ciphertext.length });
    cipher.setAuthTag(tag);
    cipher.update(ciphertext);
    cipher.final();
  };
  const opened = () => {
    const decoded = decode(datagram);
    if (isDrop(decoded) || !('tag' in decoded.message)) throw new Error('not a sealed message');
    if (isDrop(open(session, decoded.message))) throw new Error('it does not open');
  };
  return {
    bytes: datagram.length,
    seal: perSecond((number) => createMove(session, { ...move, epoch: number })),
    open: perSecond(opened),
    cipher_seal: perSecond(encipher),
    cipher_open: perSecond(decipher),
  };
}

process.stdout.write(`${JSON.stringify(rates())}\n`);
