/** ChaCha20-Poly1305 (RFC 8439): what H2O and stored images are sealed with. Whoever calls it sees to the nonces. */
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { concatBytes } from './bytes.ts';

/** The authentication tag, behind the ciphertext. */
export const SEAL_BYTES = 16;
const AEAD = 'chacha20-poly1305';

/** Ciphertext and authentication tag. */
export function sealBytes(
  key: Uint8Array,
  nonce: Uint8Array,
  aad: Uint8Array,
  plaintext: Uint8Array,
): Uint8Array {
  const cipher = createCipheriv(AEAD, key, nonce, { authTagLength: SEAL_BYTES });
  cipher.setAAD(aad, { plaintextLength: plaintext.length });
  return concatBytes(cipher.update(plaintext), cipher.final(), cipher.getAuthTag());
}

/** The plaintext, or undefined if anything about it is not what was sealed. Never throws. */
export function openBytes(
  key: Uint8Array,
  nonce: Uint8Array,
  aad: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | undefined {
  if (sealed.length < SEAL_BYTES) return undefined;
  const ciphertext = sealed.subarray(0, -SEAL_BYTES);
  const decipher = createDecipheriv(AEAD, key, nonce, { authTagLength: SEAL_BYTES });
  decipher.setAAD(aad, { plaintextLength: ciphertext.length });
  decipher.setAuthTag(sealed.subarray(-SEAL_BYTES));
  const { buffer, byteOffset, length } = decipher.update(ciphertext);
  try {
    decipher.final();
  } catch {
    return undefined;
  }
  return new Uint8Array(buffer, byteOffset, length);
}
