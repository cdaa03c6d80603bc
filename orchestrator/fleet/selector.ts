/** `--select EXPR`: which cells or hosts, by name and labels. */
import { matchesGlob } from 'node:path';
import { OsmosisError } from '../../agent/error.ts';

/** Conditions of one expression. */
const TERMS_MAX = 64;
const TERM =
  /^(?:(?<not>!)?(?<has>[A-Za-z0-9][A-Za-z0-9._/-]*)|(?<key>[A-Za-z0-9][A-Za-z0-9._/-]*)\s*(?<op>!?=)=?\s*(?<value>[A-Za-z0-9._/*?[\]{}|-]*))$/;

export type Selectable = { readonly name: string; readonly labels: Readonly<Record<string, string>> };
export type Selector = (what: Selectable) => boolean;

/**
 * Conditions with commas between them, all of which must hold: `app=redis` and `app!=redis` (the value may be a glob pattern),
 * `app` and `!app` (has such a label, or not); `name` is the name itself. As kubectl has them, without sets.
 * @throws OsmosisError USAGE
 */
export function parseSelector(expression: string): Selector {
  const terms = expression.split(',').map((term) => term.trim());
  if (terms.length > TERMS_MAX) throw badSelector(expression, `more than ${TERMS_MAX} conditions`);
  const tests = terms.map((term) => testOf(term, expression));
  return (what) => tests.every((test) => test({ ...what, labels: { ...what.labels, name: what.name } }));
}

function testOf(term: string, expression: string): Selector {
  const { not, has, key, op, value = '' } = TERM.exec(term)?.groups ?? {};
  if (has !== undefined) return ({ labels }) => Object.hasOwn(labels, has) === (not === undefined);
  if (key === undefined) throw badSelector(expression, `${JSON.stringify(term)} is no condition`);
  const matches = ({ labels }: Selectable) => {
    const actual = labels[key];
    return actual !== undefined && (actual === value || matchesGlob(actual, value));
  };
  return op === '=' ? matches : (what) => !matches(what);
}

function badSelector(expression: string, what: string): OsmosisError {
  return new OsmosisError(
    'USAGE',
    `not a selection: ${JSON.stringify(expression)}: ${what}. Write name=redis-*,app=cache,!keep; nothing was touched`,
  );
}
