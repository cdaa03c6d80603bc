/** The agent's log: lines on standard error, JSON for programs or text for people. Never with bytes in them: those may be keys. */
import { writeSync } from 'node:fs';
import { type DestinationStream, type Logger, pino, stdTimeFunctions } from 'pino';
import { VERSION } from '../version.ts';

const LOG_FORMATS = ['json', 'text'] as const;
const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export type LogOptions = {
  readonly format: (typeof LOG_FORMATS)[number];
  readonly level: (typeof LOG_LEVELS)[number];
};

/** Objects in a field are shown so deep. */
const DEPTH_MAX = 4;
/** Of an array in a field. */
const ITEMS_MAX = 64;
const STDERR = 2;
/** These say where a line belongs: they come first, whoever has written it. */
const FIRST_FIELDS = ['role', 'phase', 'cell', 'peer', 'code', 'error'];
const LAST_FIELDS = ['cell_id', 'migration'];
/** Said once in the line, or of no use to people. */
const NOT_SHOWN = new Set(['level', 'time', 'msg', 'version']);

/** `write`: takes a whole line; by default it goes to standard error at once, so that a crash loses none. */
export function makeLog(
  { format, level }: LogOptions,
  write: (line: string) => void = (line) => void writeSync(STDERR, line),
): Logger {
  const destination: DestinationStream = {
    write: (line) => write(format === 'json' ? line : textLine(JSON.parse(line))),
  };
  return pino(
    {
      level,
      base: { version: VERSION },
      timestamp: stdTimeFunctions.isoTime,
      formatters: {
        level: (label) => ({ level: label }),
        log: (fields) => shown(fields, 0) as Record<string, unknown>,
      },
    },
    destination,
  );
}

/** As it may be written down: of bytes only how many there are, of anything else not more than a line can hold. */
function shown(value: unknown, depth: number): unknown {
  if (ArrayBuffer.isView(value)) return `(${value.byteLength} bytes)`;
  if (value instanceof Error) return value.message;
  if (typeof value !== 'object' || value === null) return value;
  if (depth >= DEPTH_MAX) return '(more)';
  if (Array.isArray(value)) return value.slice(0, ITEMS_MAX).map((item) => shown(item, depth + 1));
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, shown(item, depth + 1)]));
}

/** `2026-11-23T12:05:27.123Z WARN  peer 10.77.4.2: what happened  phase=prepare cell=redis` */
export function textLine(entry: Readonly<Record<string, unknown>>): string {
  const rest = Object.keys(entry).filter(
    (name) => !NOT_SHOWN.has(name) && !FIRST_FIELDS.includes(name) && !LAST_FIELDS.includes(name),
  );
  const fields = [...FIRST_FIELDS, ...rest, ...LAST_FIELDS].flatMap((name) =>
    entry[name] === undefined || entry[name] === null ? [] : [`${name}=${fieldText(entry[name])}`],
  );
  const level = String(entry.level ?? '').toUpperCase();
  const head = `${entry.time} ${level.padEnd('ERROR'.length)} ${oneLine(String(entry.msg ?? ''))}`;
  return `${[head, ...(fields.length === 0 ? [] : ['', fields.join(' ')])].join(' ')}\n`;
}

function fieldText(value: unknown): string {
  if (typeof value === 'number') return String(Number.isInteger(value) ? value : Number(value.toFixed(1)));
  if (typeof value === 'string') return /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value);
  return JSON.stringify(value);
}

function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, ' ');
}
