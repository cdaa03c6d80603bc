/** The layers of docs/architecture.md: one direction only. And the walk there names files that exist. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** Where a layer's files may import from, its own folder always among them. */
const MAY_IMPORT = {
  'agent/wire': ['agent/wire', 'agent/address.ts', 'agent/error.ts', 'agent/phases.ts'],
  agent: ['agent'],
  orchestrator: ['orchestrator', 'agent'],
  fixtures: ['fixtures'],
  e2e: ['e2e', 'fixtures', 'orchestrator', 'agent'],
} as const satisfies Record<string, readonly string[]>;

/** Packages that only some layers may have; the agent ships without ink, React and ssh2. */
const MAY_NOT_HAVE: Record<keyof typeof MAY_IMPORT, RegExp> = {
  'agent/wire': /^(?!node:(crypto|zlib|assert\/strict|net)$|@noble\/curves|cborg$)/,
  agent: /^(ink|react|ssh2)(\/|$)/,
  orchestrator: /^$/,
  fixtures: /^(ssh2|ink|react)(\/|$)/,
  e2e: /^$/,
};

type Import = { readonly file: string; readonly target: string };

function sources(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.[jt]s$/.test(name))
    .map((name) => join(folder, name));
}

function importsOf(file: string): Import[] {
  const text = readFileSync(join(ROOT, file), 'utf8');
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map((match) => ({
    file,
    target: match[1] ?? '',
  }));
}

function layerOf(file: string): keyof typeof MAY_IMPORT {
  if (file.startsWith('agent/wire/')) return 'agent/wire';
  return file.split('/')[0] as keyof typeof MAY_IMPORT;
}

/** Violations of the direction, as text. */
function violations(imports: readonly Import[]): string[] {
  return imports.flatMap(({ file, target }) => {
    const layer = layerOf(file);
    if (!target.startsWith('.'))
      return MAY_NOT_HAVE[layer].test(target) ? [`${file} imports the package ${target}`] : [];
    const path = normalize(join(dirname(file), target));
    const allowed = MAY_IMPORT[layer].some((folder) => path === folder || path.startsWith(`${folder}/`));
    return allowed ? [] : [`${file} imports ${path}`];
  });
}

describe('layers', () => {
  const files = ['agent', 'orchestrator', 'fixtures', 'e2e'].flatMap(sources);
  const products = files.filter((file) => !file.endsWith('.test.ts'));

  it('import in one direction', () => {
    expect(products.length).toBeGreaterThan(50);
    expect(violations(products.flatMap(importsOf))).toEqual([]);
  });

  it('would be seen to be broken', () => {
    expect(violations([{ file: 'agent/main.ts', target: '../orchestrator/plan.ts' }])).toHaveLength(1);
    expect(violations([{ file: 'agent/wire/h2o.ts', target: 'node:fs' }])).toHaveLength(1);
    expect(violations([{ file: 'agent/main.ts', target: 'ssh2' }])).toHaveLength(1);
  });
});

describe('docs/architecture.md', () => {
  it('names files that exist', () => {
    const text = readFileSync(join(ROOT, 'docs/architecture.md'), 'utf8');
    const named = [...text.matchAll(/`((?:agent|orchestrator|fixtures|e2e|docs)\/[\w./-]+\.\w+)`/g)].map(
      (match) => match[1] ?? '',
    );
    expect(named.length).toBeGreaterThan(20);
    expect(named.filter((file) => !existsSync(join(ROOT, file)))).toEqual([]);
  });
});
