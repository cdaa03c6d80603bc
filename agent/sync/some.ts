/** Of a long list, this many are named. */
const NAMED_MAX = 5;

/** The first of them, and how many more there are. */
export function some(names: readonly string[]): string {
  const more = names.length - NAMED_MAX;
  return names.slice(0, NAMED_MAX).join(', ') + (more > 0 ? ` and ${more} more` : '');
}
