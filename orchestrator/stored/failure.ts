/** Failures of image files, as the operator is told. */
import { messageOf, OsmosisError } from '../../agent/error.ts';
import { FormatError } from './format.ts';

export function fileFailure(path: string, thrown: unknown): OsmosisError {
  if (thrown instanceof OsmosisError) return thrown;
  if (thrown instanceof FormatError) {
    const code = thrown.reason === 'damaged' ? 'IMAGE_CORRUPT' : 'IMAGE_FORMAT';
    return new OsmosisError(code, `${path}: ${thrown.message}`, { owner: 'file', cause: thrown });
  }
  const full = thrown instanceof Error && 'code' in thrown && thrown.code === 'ENOSPC';
  return new OsmosisError(full ? 'NO_ROOM' : 'IMAGE_FILE', `${path}: ${messageOf(thrown)}`, {
    cause: thrown,
  });
}
