/**
 * What a shell sources to complete `osmosis …`. Each passes what was typed as one argument or as words, never through eval: a
 * command line that is being typed may hold anything. Where nothing is offered the shell offers its files.
 */
const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

const BASH = `# osmosis completion bash: source it, or put it to /usr/share/bash-completion/completions/osmosis
_osmosis() {
  local line="\${COMP_LINE:0:COMP_POINT}" typed prefix
  mapfile -t COMPREPLY < <(osmosis complete --line "$line" 2>/dev/null)
  COMPREPLY=("\${COMPREPLY[@]%%$'\\t'*}")
  # Readline replaces what is behind the last of these only.
  typed="\${line##*[[:space:]]}"
  prefix="\${typed%"\${typed##*["$COMP_WORDBREAKS"]}"}"
  COMPREPLY=("\${COMPREPLY[@]#"$prefix"}")
}
complete -o bashdefault -o default -F _osmosis osmosis
`;

const ZSH = `#compdef osmosis
# osmosis completion zsh: put it to a directory of $fpath, as _osmosis
_osmosis() {
  local -a offered
  local value
  for value in "\${(@f)$(osmosis complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    [[ -n "$value" ]] && offered+=("\${\${value%%$'\\t'*}//:/\\\\:}:\${value#*$'\\t'}")
  done
  if (( $#offered )); then _describe osmosis offered; else _files; fi
}
if [[ "$funcstack[1]" = _osmosis ]]; then _osmosis "$@"; else compdef _osmosis osmosis; fi
`;

const FISH = `# osmosis completion fish: put it to ~/.config/fish/completions/osmosis.fish
complete -c osmosis -a '(osmosis complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
`;

const SCRIPTS: Record<Shell, string> = { bash: BASH, zsh: ZSH, fish: FISH };

export function completionScript(shell: Shell): string {
  return SCRIPTS[shell];
}
