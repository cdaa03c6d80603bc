# What install, upgrade and uninstall do at a host, one step a call: sh -c THIS osmosis-install STEP ARGUMENT...
# POSIX sh, Debian's essential programs. Says what it has found or done as lines "NAME VALUE"; fails with status 1 and one
# line on standard error. Every step can be run again.
set -eu
LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
umask 022

ROOT=/usr/local/lib/osmosis
RELEASES=$ROOT/releases
CURRENT=$ROOT/current
PROGRAM=/usr/local/bin/osmosis
PROGRAM_TARGET=$CURRENT/bin/osmosis
UNITS=/etc/systemd/system
LOCK=/run/osmosis-install.lock
# Unpacked, a package takes up to so many times its size, and beside it the package itself.
ROOM_FACTOR=5
AGENT_END_SECONDS_MAX=20

fail() { printf '%s\n' "$*" >&2; exit 1; }
has_systemd() { [ -d /run/systemd/system ]; }
current() { [ ! -L "$CURRENT" ] || basename "$(readlink "$CURRENT")"; }

# The agent of any release, by the Node that it runs on: prints pid and release.
agents() {
  for exe in /proc/[0-9]*/exe; do
    path=$(readlink "$exe" 2>/dev/null) || continue
    case $path in "$RELEASES"/*/bin/node*) ;; *) continue ;; esac
    pid=${exe#/proc/}
    pid=${pid%/exe}
    [ "$(tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | tail -n 1)" = agent ] || continue
    release=${path#"$RELEASES"/}
    printf '%s %s\n' "$pid" "${release%%/*}"
  done
}

# What is in the way, and is not ours: nothing of it is ever touched.
foreign() {
  if [ -e "$PROGRAM" ] || [ -L "$PROGRAM" ]; then
    [ "$(readlink "$PROGRAM" || true)" = "$PROGRAM_TARGET" ] || printf '%s\n' "$PROGRAM"
  fi
  other=$(PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin command -v osmosis || true)
  [ -z "$other" ] || printf '%s\n' "$other"
  [ ! -e "$ROOT" ] || [ -d "$RELEASES" ] || printf '%s\n' "$ROOT"
  for unit in osmosis-agent osmosis-drain; do
    file=$UNITS/$unit.service
    [ ! -e "$file" ] || grep -q "^ExecStart=$PROGRAM " "$file" || printf '%s\n' "$file"
  done
}

lock() {
  exec 9>"$LOCK"
  flock -n 9 || fail "another install, upgrade or uninstall is under way here ($LOCK): wait until it has ended"
}
unlock() { rm -f "$LOCK"; }

# Changes where the link leads in one step.
relink() { ln -sfn "$1" "$2.new" && mv -Tf "$2.new" "$2"; }

step_state() {
  printf 'current %s\n' "$(current)"
  for release in "$RELEASES"/*; do [ ! -d "$release" ] || printf 'release %s\n' "${release##*/}"; done
  foreign | sed 's/^/foreign /'
  agents | sed 's/^/agent /'
  if has_systemd; then printf 'systemd yes\n'; fi
  if [ -e /var/lib/osmosis/trust/identity ]; then printf 'identity yes\n'; fi
  for kind in cells migrations peers; do
    [ ! -d "/run/osmosis/$kind" ] || find "/run/osmosis/$kind" -type f | sed "s|^|$kind |"
  done
}

# Package on standard input: RELEASE BYTES SHA256. There is either all of it, under its own name, or nothing.
step_receive() {
  release=$1 bytes=$2 sum=$3
  in_the_way=$(foreign)
  [ -z "$in_the_way" ] || fail "not ours, and in the way: $in_the_way"
  lock
  made=''
  [ -d "$RELEASES" ] || made=yes
  mkdir -p "$RELEASES"
  # Of earlier transfers that nobody could clean up after.
  rm -rf "$ROOT"/incoming.*
  stage=$(mktemp -d "$ROOT/incoming.XXXXXX")
  trap 'rm -rf "$stage"; [ -z "$made" ] || rmdir "$RELEASES" "$ROOT" 2>/dev/null || true; unlock' EXIT
  trap 'exit 1' HUP INT TERM PIPE
  free=$(df -Pk "$ROOT" | awk 'NR == 2 { print $4 }')
  [ "$free" -gt $((bytes * ROOM_FACTOR / 1024)) ] ||
    fail "not enough room in $ROOT: $free kB free, $((bytes * ROOM_FACTOR / 1024)) kB needed"
  head -c "$bytes" >"$stage/package.tgz"
  came=$(wc -c <"$stage/package.tgz")
  [ "$came" -eq "$bytes" ] || fail "the package was cut off: $came of $bytes bytes came"
  [ "$(sha256sum <"$stage/package.tgz" | cut -d ' ' -f 1)" = "$sum" ] || fail 'the package came altered: its SHA-256 is another'
  mkdir "$stage/unpacked"
  tar -xzf "$stage/package.tgz" -C "$stage/unpacked" --no-same-owner --strip-components=1
  version=$("$stage/unpacked/bin/osmosis" --version) ||
    fail 'the package does not run here: it is for another architecture, or a newer libc'
  [ -e "$RELEASES/$release" ] || mv "$stage/unpacked" "$RELEASES/$release"
  printf 'version %s\n' "$version"
}

# RELEASE is what `osmosis` runs from now on, and what systemd starts, or starts again.
step_activate() {
  release=$1
  [ -x "$RELEASES/$release/bin/osmosis" ] || fail "there is no release $release here"
  in_the_way=$(foreign)
  [ -z "$in_the_way" ] || fail "not ours, and in the way: $in_the_way"
  lock
  trap unlock EXIT
  relink "releases/$release" "$CURRENT"
  mkdir -p "$(dirname "$PROGRAM")"
  relink "$PROGRAM_TARGET" "$PROGRAM"
  has_systemd || return 0
  for unit in osmosis-agent osmosis-drain; do
    cp "$CURRENT/agent/systemd/$unit.service" "$UNITS/$unit.service.new"
    mv -f "$UNITS/$unit.service.new" "$UNITS/$unit.service"
  done
  systemctl daemon-reload
  systemctl -q enable osmosis-agent
  systemctl restart osmosis-agent
}

# Ends the agent; where systemd has not started it, whatever else does may start it again.
step_end_agent() {
  pids=$(agents | cut -d ' ' -f 1)
  [ -n "$pids" ] || return 0
  # One that ends at once whenever it is started may have ended by itself since.
  # shellcheck disable=SC2086 # one word a pid
  kill $pids 2>/dev/null || true
  tries=0
  for pid in $pids; do
    while [ -e "/proc/$pid" ]; do
      tries=$((tries + 1))
      [ "$tries" -le $((AGENT_END_SECONDS_MAX * 10)) ] || fail "the agent (pid $pid) does not end"
      sleep 0.1
    done
  done
}

# Removes all releases but these.
step_prune() {
  for release in "$RELEASES"/*; do
    kept=''
    for keep in "$@"; do [ "${release##*/}" != "$keep" ] || kept=yes; done
    [ -n "$kept" ] || [ ! -d "$release" ] || { rm -rf "$release"; printf 'removed %s\n' "${release##*/}"; }
  done
}

# NAME=VALUE, of net.ipv4.conf.INTERFACE.
unset_setting() {
  printf '%s\n' "${2#*=}" >"/proc/sys/net/ipv4/conf/$1/${2%%=*}"
  printf 'sysctl net.ipv4.conf.%s.%s\n' "$1" "${2%%=*}"
}

# What an agent that was killed, or whose connections are given up, has left in the kernel.
sweep_kernel() {
  for device in /sys/class/net/*; do
    device=${device##*/}
    swept=''
    for side in ingress egress; do
      tc filter show dev "$device" $side 2>/dev/null | grep -q 'pref 18018 ' || continue
      tc filter del dev "$device" $side pref 18018
      printf 'filters %s %s\n' "$device" $side
      swept=yes
    done
    [ -n "$swept" ] || continue
    [ -n "$(tc filter show dev "$device" ingress; tc filter show dev "$device" egress)" ] ||
      tc qdisc del dev "$device" clsact
  done
  for device in $(ip -o link show type veth 2>/dev/null | sed -n 's/^[0-9]*: \(osm[0-9a-f]\{8\}r\{0,1\}\)@.*/\1/p'); do
    ip link delete "$device"
    printf 'device %s\n' "$device"
  done
  # Addresses of sockets that were kept, and settings as they were: a file each, and in the bpffs a directory.
  for note in /run/osmosis/kept/* /run/osmosis/bpf/loopback/*; do
    case $note in
      *'/address '*:*) ip addr del "${note##*/address }/128" dev lo 2>/dev/null || true ;;
      *'/address '*) ip addr del "${note##*/address }/32" dev lo 2>/dev/null || true ;;
      *'/setting '*=*) unset_setting all "${note##*/setting }" ;;
      */loopback/*=*) unset_setting lo "${note##*/}" ;;
    esac
  done
  reserved=/proc/sys/net/ipv4/ip_local_reserved_ports
  grep -qw 40000-57999 $reserved || return 0
  # The kernel takes an empty list only as a lone newline.
  tr ',' '\n' <$reserved | grep -vx 40000-57999 | paste -sd , >"$ROOT/reserved" || true
  cat "$ROOT/reserved" >$reserved
  printf 'sysctl ip_local_reserved_ports\n'
}

# KEEP is `identity` or `nothing`. Nothing of Osmosis is left here but, if that is wanted, who its agent was.
step_uninstall() {
  keep=$1
  lock
  trap unlock EXIT
  if has_systemd && [ -e "$UNITS/osmosis-agent.service" ]; then
    # Its stop would drain the host.
    mkdir -p /run/systemd/system/osmosis-drain.service.d
    printf '[Service]\nExecStop=\n' >/run/systemd/system/osmosis-drain.service.d/uninstall.conf
    systemctl daemon-reload
    systemctl -q disable --now osmosis-drain osmosis-agent 2>/dev/null || true
    rm -rf /run/systemd/system/osmosis-drain.service.d
  fi
  [ "$(readlink "$PROGRAM" 2>/dev/null || true)" != "$PROGRAM_TARGET" ] || rm -f "$PROGRAM"
  step_end_agent
  for unit in osmosis-agent osmosis-drain; do
    file=$UNITS/$unit.service
    [ ! -e "$file" ] || ! grep -q "^ExecStart=$PROGRAM " "$file" || rm -f "$file"
  done
  if has_systemd; then
    systemctl daemon-reload
    systemctl reset-failed osmosis-agent osmosis-drain 2>/dev/null || true
  fi
  sweep_kernel
  awk '$2 ~ "^/run/osmosis/" { print $2 }' /proc/mounts | sort -r | while read -r mounted; do umount "$mounted"; done
  rm -rf /run/osmosis /var/cache/osmosis
  if [ "$keep" = identity ] && [ -d /var/lib/osmosis/trust ]; then
    find /var/lib/osmosis -mindepth 1 -maxdepth 1 ! -name trust -exec rm -rf {} +
    printf 'kept /var/lib/osmosis/trust\n'
  else
    rm -rf /var/lib/osmosis
  fi
  if [ -d "$RELEASES" ]; then rm -rf "$ROOT"; fi
  if [ -e /etc/osmosis ]; then printf 'yours /etc/osmosis\n'; fi
}

step=$1
shift
case $step in
  state | receive | activate | end_agent | prune | uninstall) "step_$step" "$@" ;;
  *) fail "no step $step" ;;
esac
