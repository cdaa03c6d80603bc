/** In a real bash: what TAB makes of a line, with the command line of this checkout. */
import { mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { expect, onTestFinished, test } from 'vitest';

const CLI = fileURLToPath(new URL('../cli.js', import.meta.url));
/** As readline does before it calls the function, and after it has. */
const ASK = `
source <(osmosis completion bash); source <(osmosis completion bash)
COMP_LINE=$1; COMP_POINT=\${#1}; COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
_osmosis
printf '%s\\n' "\${COMPREPLY[@]}"
complete -p osmosis >/dev/null
`;

async function complete(lines: readonly string[]): Promise<string[][]> {
  const home = mkdtempSync(join(tmpdir(), 'osmosis-completion-'));
  onTestFinished(() => rmSync(home, { recursive: true, force: true }));
  symlinkSync(CLI, join(home, 'osmosis'));
  writeFileSync(join(home, 'osmosis.yaml'), 'hosts:\n  alpha: { ssh: "ssh://root@10.0.0.1:22" }\n  beta:\n');
  const env = { PATH: `${home}:${process.env.PATH}`, HOME: home, XDG_CONFIG_HOME: home };
  const all = lines.map(async (line) => {
    const run = execa('bash', ['--norc', '-c', ASK, 'bash', line], { env, cwd: home, timeout: 20_000 });
    return (await run).stdout.split('\n').filter(Boolean);
  });
  const answers = await Promise.all(all);
  expect(readdirSync(home).sort()).toEqual(['osmosis', 'osmosis.yaml']);
  return answers;
}

test('commands, options, choices and hosts of the fleet file; what was typed is never run', {
  timeout: 60_000,
}, async () => {
  const [commands, options, hosts, list, joined, shells, none] = await complete([
    'osmosis mig',
    'osmosis migrate --fr',
    'osmosis migrate 4 --from ',
    'osmosis drain alpha --to alpha,',
    'osmosis migrate 4 --from=al',
    'osmosis completion ',
    'osmosis run -- $(touch ran) `touch ran` ',
  ]);
  expect(commands).toEqual(['migrate']);
  expect(options).toEqual(['--from']);
  expect(hosts).toEqual(['alpha', 'beta', 'local']);
  expect(list).toEqual(['alpha,alpha', 'alpha,beta', 'alpha,local']);
  // Readline replaces what is behind the =.
  expect(joined).toEqual(['alpha']);
  expect(shells).toEqual(['bash', 'zsh', 'fish']);
  expect(none).toEqual([]);
});
