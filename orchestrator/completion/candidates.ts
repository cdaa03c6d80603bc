/** What may stand where the cursor is, told by the command line's own tree: names, options and what some of them take. Pure. */
import type { Argument, Command, Option } from 'commander';

export type Candidate = { readonly value: string; readonly description: string };
/** What values are looked up for. */
export type Kind = 'host' | 'cell';
export type Wanted = {
  readonly candidates: readonly Candidate[];
  /** Values of this kind fit as well; each is to be put behind `prefix`. */
  readonly kind?: Kind | undefined;
  readonly prefix: string;
};

/** By what an option or argument calls what it takes. */
const KINDS: Readonly<Record<string, Kind>> = {
  host: 'host',
  hosts: 'host',
  cell: 'cell',
  target: 'cell',
  targets: 'cell',
};
/** `--to HOST,…` */
const LISTS = new Set(['--to <hosts>']);

/** `words`: those behind `osmosis`; the last one, which may be empty, is the one that is being typed. */
export function wantedAt(program: Command, words: readonly string[]): Wanted {
  const typed = words.at(-1) ?? '';
  const chain = [program];
  let taking: Option | undefined;
  let positionals = 0;
  for (const word of words.slice(0, -1)) {
    const command = chain.at(-1) ?? program;
    if (taking !== undefined && !(taking.optional && word.startsWith('-'))) {
      taking = undefined;
      continue;
    }
    taking = undefined;
    // What is behind it belongs to another program.
    if (word === '--') return { candidates: [], prefix: '' };
    if (word.startsWith('-')) {
      const option = optionOf(chain, word);
      taking = takes(option) ? option : undefined;
      continue;
    }
    const next = command.commands.find((each) => each.name() === word || each.aliases().includes(word));
    if (next !== undefined && positionals === 0) chain.push(next);
    else positionals += 1;
  }
  if (taking !== undefined && !(taking.optional && typed.startsWith('-'))) return valuesOf(taking, typed);
  const [name = '', value] = splitAt(typed, '=');
  const option = value === undefined ? undefined : optionOf(chain, name);
  if (option !== undefined && value !== undefined) return behind(valuesOf(option, value), `${name}=`);
  return typed.startsWith('-') ? optionsOf(chain, typed) : operandsOf(chain, positionals, typed);
}

function operandsOf(chain: readonly Command[], positionals: number, typed: string): Wanted {
  const command = chain.at(-1);
  const commands = positionals === 0 ? (command?.createHelp().visibleCommands(command) ?? []) : [];
  const named = commands.map((each) => ({
    value: each.name(),
    description: each.summary() || each.description(),
  }));
  const declared = command?.registeredArguments ?? [];
  const last = declared.at(-1);
  const argument = declared[positionals] ?? (last?.variadic ? last : undefined);
  const values = argument === undefined ? NOTHING : argumentValues(argument, typed);
  return { ...values, candidates: [...starting(named, typed), ...values.candidates] };
}

const NOTHING: Wanted = { candidates: [], prefix: '' };

function argumentValues(argument: Argument, typed: string): Wanted {
  const choices = (argument.argChoices ?? []).map((value) => ({ value, description: '' }));
  return { candidates: starting(choices, typed), kind: KINDS[argument.name()], prefix: '' };
}

function optionsOf(chain: readonly Command[], typed: string): Wanted {
  const options = chain.flatMap((command) => command.createHelp().visibleOptions(command));
  const named = options.flatMap(({ long, description }) =>
    long == null ? [] : [{ value: long, description }],
  );
  const all = new Map(named.map((each) => [each.value, each]));
  return { candidates: starting([...all.values()], typed), prefix: '' };
}

function valuesOf(option: Option, typed: string): Wanted {
  const choices = (option.argChoices ?? []).map((value) => ({ value, description: '' }));
  const kind = KINDS[/[<[]([a-z]+)/.exec(option.flags)?.[1] ?? ''];
  const isList = LISTS.has(option.flags);
  const prefix = isList ? typed.slice(0, typed.lastIndexOf(',') + 1) : '';
  return { candidates: starting(choices, typed), kind, prefix };
}

function behind({ candidates, kind, prefix }: Wanted, before: string): Wanted {
  const all = candidates.map(({ value, description }) => ({ value: before + value, description }));
  return { candidates: all, kind, prefix: before + prefix };
}

function optionOf(chain: readonly Command[], word: string): Option | undefined {
  const all = chain.flatMap(({ options }) => options);
  return all.find(({ long, short }) => long === word || short === word);
}

function takes(option: Option | undefined): option is Option {
  return option !== undefined && (option.required || option.optional);
}

export function starting(all: readonly Candidate[], typed: string): Candidate[] {
  return all.filter(({ value }) => value.startsWith(typed));
}

function splitAt(text: string, mark: string): [string, string | undefined] {
  const at = text.indexOf(mark);
  return at < 0 || !text.startsWith('--') ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

/** The words of a command line up to the cursor, as a shell would read them; nothing is expanded or run. */
export function wordsOf(line: string): string[] {
  const words: string[] = [];
  let word = '';
  let quote = '';
  for (let at = 0; at < line.length; at++) {
    const char = line.charAt(at);
    if (char === '\\' && quote !== "'") word += line.charAt(++at);
    else if (char === quote) quote = '';
    else if (quote === '' && (char === "'" || char === '"')) quote = char;
    else if (quote === '' && /\s/.test(char)) {
      if (word !== '') words.push(word);
      word = '';
    } else word += char;
  }
  return [...words, word];
}
