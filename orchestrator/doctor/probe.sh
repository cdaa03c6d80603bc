# What a host is and has, as lines "NAME VALUE" on standard output: facts.ts reads them, findings.ts judges them.
# POSIX sh and Debian's essential programs only, as a host may have nothing else. Changes nothing: what is tried is tried in
# namespaces that end with the try (CRIU may write its own cache, /run/criu.kdat).
LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
WIDTH_MAX=300

fact() { name=$1; shift; printf '%s %s\n' "$name" "$(printf '%s' "$*" | tr '\n\t' '  ' | cut -c "1-$WIDTH_MAX")"; }
first() { head -n 1 2>/dev/null; }
contents() { [ ! -r "$2" ] || fact "$1" "$(first <"$2")"; }
has() { command -v "$1" >/dev/null 2>&1; }
# A try that must not hang: NAME SECONDS COMMAND... gives "NAME ok" or "NAME failed: last words".
try() {
  name=$1; seconds=$2; shift 2
  if said=$(timeout "$seconds" "$@" 2>&1 </dev/null); then fact "$name" ok
  else fact "$name" "failed: $(printf '%s\n' "$said" | grep -v '^ *$' | tail -n 2)"; fi
}

fact uid "$(id -u)"
fact hostname "$(uname -n)"
fact kernel "$(uname -r)"
fact machine "$(uname -m)"
[ ! -r /etc/os-release ] || fact os "$(. /etc/os-release; printf '%s' "${PRETTY_NAME:-}")"
fact capabilities "$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)"
fact processes_of_others "$(find /proc -maxdepth 1 -name '[0-9]*' ! -user 0 2>/dev/null | wc -l)"

for program in criu bpftool tc ip nsenter unshare setpriv setsid catatonit stdbuf sysctl mount umount; do
  has "$program" && fact program "$program" || fact missing "$program"
done
has tmux && fact tmux "$(tmux -V)"
has criu && fact criu "$(timeout 10 criu --version 2>&1 | sed -n 's/^Version: *//p')"
has nsenter && fact util_linux "$(nsenter --version 2>&1 | grep -o '[0-9][0-9.]*[0-9]' | first)"
has setpriv && setpriv --help 2>/dev/null | grep -q -- --seccomp-filter && fact seccomp_filter yes
if has criu && [ "$(id -u)" = 0 ]; then
  said=$(timeout 30 criu check 2>&1 </dev/null) && fact criu_check ok || fact criu_check "failed: $(printf '%s\n' "$said" | grep -m 1 Error)"
  printf '%s' "$said" | grep -q 'Dirty tracking is OFF' && fact soft_dirty no
fi
[ -e /sys/kernel/btf/vmlinux ] && fact btf yes
[ -e /dev/userfaultfd ] || [ -e /proc/sys/vm/unprivileged_userfaultfd ] && fact userfaultfd yes
contents io_uring_disabled /proc/sys/kernel/io_uring_disabled
[ -e /proc/kallsyms ] && grep -qm1 ' __x64_sys_io_uring_setup$\| __arm64_sys_io_uring_setup$' /proc/kallsyms && fact io_uring yes
contents mptcp /proc/sys/net/mptcp/enabled
contents bpf_jit /proc/sys/net/core/bpf_jit_enable
contents lockdown /sys/kernel/security/lockdown
contents selinux /sys/fs/selinux/enforce
[ -e /proc/net/if_inet6 ] && fact ipv6 yes

run=/run
[ ! -d /run/osmosis ] || run=/run/osmosis
fact run_fs "$(stat -f -c %T $run 2>/dev/null)"
fact run_kilobytes "$(df -Pk $run 2>/dev/null | awk 'NR == 2 { print $4 }')"
fact memory_kilobytes "$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)"
fact state_kilobytes "$(df -Pk /var/lib 2>/dev/null | awk 'NR == 2 { print $4 }')"
fact software_kilobytes "$(df -Pk /usr/local 2>/dev/null | awk 'NR == 2 { print $4 }')"

for setting in net/ipv4/ip_local_reserved_ports net/ipv4/conf/lo/accept_local net/ipv4/conf/lo/route_localnet; do
  [ -w "/proc/sys/$setting" ] || fact read_only "$setting"
done
contents rp_filter_all /proc/sys/net/ipv4/conf/all/rp_filter
if has ip; then
  for device in $(ip -o -4 addr show up scope global 2>/dev/null | awk '{ print $2 }' | sort -u); do
    [ ! -r "/proc/sys/net/ipv4/conf/$device/rp_filter" ] ||
      fact rp_filter "$device $(first <"/proc/sys/net/ipv4/conf/$device/rp_filter")"
  done
  for address in $(ip -o addr show up scope global 2>/dev/null | awk '{ sub("/.*", "", $4); print $4 }'); do
    fact address "$address"
  done
fi

# UDP ports are hexadecimal there: 18018 is 4662.
grep -qi '^ *[0-9]*: [0-9A-F]*:4662 ' /proc/net/udp /proc/net/udp6 2>/dev/null && fact port_taken yes
has ss && fact port_owner "$(ss -Hulnp 'sport = :18018' 2>/dev/null | grep -o 'users:.*' | first)"
if has nft && [ "$(id -u)" = 0 ]; then
  rules=$(timeout 10 nft list ruleset 2>/dev/null | head -c 1000000)
  fact input_policy_drop "$(printf '%s\n' "$rules" | grep -c 'hook input.*policy drop')"
  fact rules_naming_port "$(printf '%s\n' "$rules" | grep -cw 18018)"
fi

[ ! -d /run/systemd/system ] || fact systemd "$(systemctl is-system-running 2>/dev/null)"
[ ! -d /run/systemd/system ] || fact service "$(systemctl is-enabled osmosis-agent 2>/dev/null) $(systemctl is-active osmosis-agent 2>/dev/null)"
program=$(command -v osmosis 2>/dev/null)
if [ -n "$program" ]; then
  real=$(readlink -f "$program")
  fact osmosis "$real"
  said=$(timeout 10 osmosis --version 2>&1 </dev/null) && fact osmosis_version "$said" || fact osmosis_broken "$said"
  root=$(dirname "$real")/..
  [ ! -r "$root/agent/datapath/osmosis.bpf.o" ] || object=$root/agent/datapath/osmosis.bpf.o
fi
has node && fact node "$(node --version 2>/dev/null)"
[ ! -S /run/osmosis/agent.sock ] || fact socket "$(stat -c '%a %u' /run/osmosis/agent.sock)"

if [ "$(id -u)" = 0 ] && has unshare; then
  try try_pid_namespace 10 unshare --pid --fork --mount --mount-proc true
  try try_bpffs 10 unshare --mount --propagation private mount -t bpf -o mode=0700 bpf /mnt
  if has ip; then
    try try_veth 10 unshare --net ip link add osm0 type veth peer name osm1
    # A device that is never up, in a namespace that ends at once.
    inside='ip link add osm0 type veth peer name osm1 && tc'
    has tc && try try_clsact 10 unshare --net sh -c "$inside qdisc add dev osm0 clsact"
    has tc && try try_tbf 10 unshare --net sh -c "$inside qdisc add dev osm0 root tbf rate 1gbit burst 100kb latency 50ms"
  fi
  if [ -n "$object" ] && has bpftool; then
    try try_datapath 60 unshare --mount --propagation private sh -c \
      'mount -t bpf -o mode=0700 bpf /mnt && mkdir /mnt/maps && bpftool prog loadall "$0" /mnt/programs pinmaps /mnt/maps' "$object"
  fi
fi
fact end yes
