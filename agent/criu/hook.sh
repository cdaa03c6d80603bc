#!/bin/sh
# The two-phase commit, from inside CRIU: its action script at both ends (criu(8), --action-script). It runs without the
# agent as well, so that a crashed agent can't leave a process frozen for ever.
#
# post-dump, source: the tree is frozen and dumped. Wait for the decision file. Whoever links it first has decided; at the
# deadline this script tries to link "abort" itself. Exit 0 lets CRIU end its copy, anything else makes it go on in place.
# post-restore, destination: the tree exists and is not running. Wait for the agent's verdict, without a deadline: only
# the source knows. Exit 0 lets it run, anything else makes CRIU take it back.
set -u
case ${CRTOOLS_SCRIPT_ACTION:-} in
post-dump)
  : >"$OSMOSIS_WORK/frozen"
  ticks=$OSMOSIS_DEADLINE_TICKS
  while [ ! -e "$OSMOSIS_DECISION" ]; do
    if [ "$ticks" -le 0 ]; then
      ln "$OSMOSIS_DECISION.abort" "$OSMOSIS_DECISION" 2>/dev/null
      break
    fi
    ticks=$((ticks - 1))
    sleep 0.02
  done
  read -r decision <"$OSMOSIS_DECISION" || exit 1
  [ "$decision" = commit ]
  ;;
post-restore)
  exec 3<>"$OSMOSIS_WORK/verdict"
  : >"$OSMOSIS_WORK/restored"
  read -r verdict <&3 || exit 1
  [ "$verdict" = commit ]
  ;;
post-resume)
  : >"$OSMOSIS_WORK/resumed"
  ;;
esac
