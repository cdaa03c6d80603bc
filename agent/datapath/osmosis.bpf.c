// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The datapath: three tc programs that rewrite the addresses and ports of exactly the flows that they are told about.
 *
 *   from_wire  ingress of a physical device   wire tuple    -> virtual tuple, then into the cell or up the host's stack
 *   to_wire    egress of a physical device    virtual tuple -> wire tuple, for sockets in the host's own namespace
 *   from_cell  ingress of a cell's host end   virtual tuple -> wire tuple, for sockets in the cell
 *
 * docs/datapath.md has the model. The layouts below are repeated in layout.ts; e2e/datapath.test.ts compares the two.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/types.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>

#define AF_INET 2
#define AF_INET6 10

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* The kernel offers some of the helpers below to GPL-compatible programs only. */
char LICENSE[] SEC("license") = "GPL";

#ifdef SOCKET_OPTIONS
/*
 * An object of its own (-DSOCKET_OPTIONS): what CRIU leaves out of a socket, read before a move and set after it. It needs
 * the kernel's type information (BTF) to load, which the datapath must not depend on.
 *
 *   read_sockets  iterator over the open files of all tasks: one struct socket_record for each TCP, UDP, raw … socket
 *   set_sockets   iterator over the TCP sockets of the reader's network namespace: what the map `wanted` says for each,
 *                 and one struct socket_outcome for each that it says anything for
 *
 * The structures of the kernel are those parts of them that are looked at; libbpf finds where they are.
 */
#include <bpf/bpf_core_read.h>

#define SOL_TCP 6
#define SOL_SOCKET 1
#define SOL_IP 0
#define SOL_IPV6 41
#define SO_REUSEPORT 15
#define SO_MAX_PACING_RATE 47
#define SO_TXREHASH 74
#define IP_TOS 1
#define IPV6_TCLASS 67
#define SOCK_STREAM 1
#define NAME_BYTES 16
#define NO_PACING ((unsigned long)-1)
#define PMTU_WANT 1
#define IPV6_RXINFO 4 /* bit of ipv6_pinfo.rxopt, include/linux/ipv6.h */
#define SOCKETS_MAX 65536

struct socket_key {
	__be32 local[4]; /* IPv4 as ::ffff:a.b.c.d */
	__be32 remote[4];
	__u16 local_port; /* host's order */
	__u16 remote_port;
};

/* Zero, or an empty name: as a new socket has it. */
struct socket_options {
	char congestion[NAME_BYTES];
	__u64 max_pacing_rate; /* bytes a second */
	__u32 user_timeout; /* ms */
	__u32 notsent_lowat;
	__u32 window_clamp;
	__u16 maxseg;
	__u8 syncnt;
	__u8 thin_linear_timeouts;
	__u8 save_syn;
	__u8 tos; /* of an IPv6 socket; CRIU keeps it for IPv4 */
	__u8 tclass;
	__u8 no_reuseport; /* 1: off, where CRIU has left it on */
	__u8 no_txrehash;
	__u8 pad[3];
};

/* Bits of socket_record.lost, in the order of the names in socket-record.ts. */
enum lost {
	LOST_DEFER_ACCEPT,
	LOST_LINGER2,
	LOST_FASTOPEN,
	LOST_INQ,
	LOST_TX_DELAY,
	LOST_TIMESTAMPS,
	LOST_RXQ_OVFL,
	LOST_ZEROCOPY,
	LOST_TXTIME,
	LOST_BUSY_POLL,
	LOST_PEEK_OFF,
	LOST_LOCK_FILTER,
	LOST_REUSEPORT_PROGRAM,
	LOST_MULTICAST,
	LOST_MTU_DISCOVER,
	LOST_RECVERR,
	LOST_ANCILLARY,
	LOST_TRANSPARENT,
	LOST_HOPS,
	LOST_IP_OPTIONS,
	LOST_UDP_SEGMENT,
	LOST_UDP_GRO,
	/* With these the connection would not survive, or CRIU fails. */
	REFUSED_MD5,
	REFUSED_REPAIR,
	REFUSED_FILTER_PROGRAM,
};

struct socket_record {
	__u64 inode;
	struct socket_key key;
	__u32 lost;
	__u16 family;
	__u16 type;
	__u16 protocol;
	__u8 state;
	__u8 pad;
	struct socket_options options;
	char ulp[NAME_BYTES];
	__u32 device; /* ifindex that it is bound to */
	__u32 pad2;
};

struct socket_outcome {
	struct socket_key key;
	__u32 failed; /* bit n: the nth of set_sockets */
};

_Static_assert(sizeof(struct socket_key) == 36, "socket-record.ts");
_Static_assert(sizeof(struct socket_options) == 48, "socket-record.ts");
_Static_assert(sizeof(struct socket_record) == 128, "socket-record.ts");
_Static_assert(sizeof(struct socket_outcome) == 40, "socket-record.ts");

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sock_common___kernel {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned char skc_reuseport : 1;
	int skc_bound_dev_if;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
};

struct sock_fprog_kern;

struct bpf_prog___kernel {
	struct sock_fprog_kern *orig_prog;
};

struct sk_filter___kernel {
	struct bpf_prog___kernel *prog;
};

struct sock_reuseport___kernel {
	struct bpf_prog___kernel *prog;
};

struct sock___kernel {
	struct sock_common___kernel __sk_common;
	__u16 sk_type;
	__u16 sk_protocol;
	__s32 sk_peek_off;
	unsigned int sk_ll_usec;
	__u32 sk_tsflags;
	__u8 sk_txrehash;
	unsigned long sk_max_pacing_rate;
	struct sk_filter___kernel *sk_filter;
	struct sock_reuseport___kernel *sk_reuseport_cb;
};

struct ip_mc_socklist;
struct ip_options_rcu;
struct ipv6_mc_socklist;
struct ipv6_txoptions;

struct ipv6_pinfo___kernel {
	__s16 hop_limit;
	__u8 pmtudisc;
	__u8 tclass;
	union {
		__u16 all;
	} rxopt;
	struct ipv6_txoptions *opt;
	struct ipv6_mc_socklist *ipv6_mc_list;
};

struct inet_sock___kernel {
	struct ipv6_pinfo___kernel *pinet6;
	unsigned long inet_flags;
	__u8 tos;
	__u8 min_ttl;
	__u8 pmtudisc;
	struct ip_options_rcu *inet_opt;
	struct ip_mc_socklist *mc_list;
};

struct tcp_congestion_ops___kernel {
	char name[NAME_BYTES];
};

struct tcp_ulp_ops___kernel {
	char name[NAME_BYTES];
};

struct fastopen_queue___kernel {
	int max_qlen;
};

struct request_sock_queue___kernel {
	__u8 rskq_defer_accept;
	struct fastopen_queue___kernel fastopenq;
};

struct inet_connection_sock___kernel {
	struct request_sock_queue___kernel icsk_accept_queue;
	const struct tcp_congestion_ops___kernel *icsk_ca_ops;
	const struct tcp_ulp_ops___kernel *icsk_ulp_ops;
	__u8 icsk_syn_retries;
	__u32 icsk_user_timeout;
};

struct tcp_options_received___kernel {
	__u16 user_mss;
};

struct tcp_md5sig_info;

struct tcp_sock___kernel {
	struct tcp_options_received___kernel rx_opt;
	__u32 notsent_lowat;
	__u32 window_clamp;
	__u32 tcp_tx_delay;
	int linger2;
	__u8 repair : 1;
	__u8 recvmsg_inq : 1;
	__u8 thin_lto : 1;
	__u8 save_syn : 2;
	struct tcp_md5sig_info *md5sig_info;
};

struct udp_sock___kernel {
	unsigned long udp_flags;
	__u16 gso_size;
};

struct socket___kernel {
	struct sock___kernel *sk;
};

struct inode___kernel {
	unsigned long i_ino;
};

struct file___kernel {
	struct inode___kernel *f_inode;
};

struct seq_file;

struct bpf_iter_meta___kernel {
	struct seq_file *seq;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta___kernel *meta;
	void *task;
	__u32 fd;
	struct file___kernel *file;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta___kernel *meta;
	struct sock_common___kernel *sk_common;
};

#pragma clang attribute pop

enum sock_flags___kernel {
	SOCK_RCVTSTAMP___kernel,
	SOCK_RXQ_OVFL___kernel,
	SOCK_ZEROCOPY___kernel,
	SOCK_FILTER_LOCKED___kernel,
	SOCK_TXTIME___kernel,
};

/* Bits of inet_sock.inet_flags since Linux 6.6 (include/net/inet_sock.h) and of udp_sock.udp_flags since 6.7, where the
 * kernel gives their enumerations no name to be found by. Before, nothing is said about these options. */
#define INET_ANCILLARY ((1 << 1) | (1 << 2) | (1 << 3) | (1 << 4) | (1 << 6)) /* TTL, TOS, options, original destination */
#define INET_RECVERR ((1 << 9) | (1 << 26))
#define INET_TRANSPARENT (1 << 15)
#define UDP_FLAG_GRO (1 << 3)

#define MARK(record, condition, bit)                    \
	do {                                            \
		if (condition)                          \
			(record)->lost |= 1 << (bit);   \
	} while (0)

#define HAS_FLAG(flags, name) \
	(bpf_core_enum_value_exists(enum sock_flags___kernel, name##___kernel) && \
	 ((flags) >> bpf_core_enum_value(enum sock_flags___kernel, name##___kernel) & 1))

static __always_inline void read_key(struct socket_key *key, struct sock_common___kernel *common)
{
	if (BPF_CORE_READ(common, skc_family) == AF_INET) {
		key->local[2] = key->remote[2] = bpf_htonl(0xffff);
		key->local[3] = BPF_CORE_READ(common, skc_rcv_saddr);
		key->remote[3] = BPF_CORE_READ(common, skc_daddr);
	} else {
		bpf_core_read(key->local, sizeof(key->local), &common->skc_v6_rcv_saddr);
		bpf_core_read(key->remote, sizeof(key->remote), &common->skc_v6_daddr);
	}
	key->local_port = BPF_CORE_READ(common, skc_num);
	key->remote_port = bpf_ntohs(BPF_CORE_READ(common, skc_dport));
}

static __always_inline void read_common(struct socket_record *record, struct sock___kernel *sk)
{
	unsigned long flags = BPF_CORE_READ(sk, __sk_common.skc_flags);
	unsigned long pacing = BPF_CORE_READ(sk, sk_max_pacing_rate);
	struct bpf_prog___kernel *filter = BPF_CORE_READ(sk, sk_filter, prog);

	record->device = BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if);
	record->options.max_pacing_rate = pacing == NO_PACING ? 0 : pacing;
	record->options.no_reuseport = !BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_reuseport);
	record->options.no_txrehash = bpf_core_field_exists(sk->sk_txrehash) && !BPF_CORE_READ(sk, sk_txrehash);
	MARK(record, bpf_core_field_exists(sk->sk_tsflags) && BPF_CORE_READ(sk, sk_tsflags), LOST_TIMESTAMPS);
	MARK(record, HAS_FLAG(flags, SOCK_RCVTSTAMP), LOST_TIMESTAMPS);
	MARK(record, HAS_FLAG(flags, SOCK_RXQ_OVFL), LOST_RXQ_OVFL);
	MARK(record, HAS_FLAG(flags, SOCK_ZEROCOPY), LOST_ZEROCOPY);
	MARK(record, HAS_FLAG(flags, SOCK_TXTIME), LOST_TXTIME);
	MARK(record, HAS_FLAG(flags, SOCK_FILTER_LOCKED), LOST_LOCK_FILTER);
	MARK(record, bpf_core_field_exists(sk->sk_ll_usec) && BPF_CORE_READ(sk, sk_ll_usec), LOST_BUSY_POLL);
	MARK(record, BPF_CORE_READ(sk, sk_peek_off) >= 0, LOST_PEEK_OFF);
	MARK(record, BPF_CORE_READ(sk, sk_reuseport_cb, prog), LOST_REUSEPORT_PROGRAM);
	/* A classic filter keeps its instructions for SO_GET_FILTER, by which CRIU takes it along. */
	MARK(record, filter && !BPF_CORE_READ(filter, orig_prog), REFUSED_FILTER_PROGRAM);
}

static __always_inline void read_inet(struct socket_record *record, struct inet_sock___kernel *inet)
{
	struct ipv6_pinfo___kernel *six = BPF_CORE_READ(inet, pinet6);
	unsigned long flags = 0;

	if (bpf_core_field_exists(inet->inet_flags))
		flags = BPF_CORE_READ(inet, inet_flags);
	MARK(record, flags & INET_ANCILLARY, LOST_ANCILLARY);
	MARK(record, flags & INET_RECVERR, LOST_RECVERR);
	MARK(record, flags & INET_TRANSPARENT, LOST_TRANSPARENT);
	MARK(record, BPF_CORE_READ(inet, min_ttl), LOST_HOPS);
	MARK(record, BPF_CORE_READ(inet, inet_opt), LOST_IP_OPTIONS);
	MARK(record, BPF_CORE_READ(inet, mc_list), LOST_MULTICAST);
	MARK(record, BPF_CORE_READ(inet, pmtudisc) > PMTU_WANT, LOST_MTU_DISCOVER);
	if (record->family != AF_INET6 || !six)
		return;
	record->options.tos = BPF_CORE_READ(inet, tos);
	record->options.tclass = BPF_CORE_READ(six, tclass);
	MARK(record, BPF_CORE_READ(six, hop_limit) > 0, LOST_HOPS);
	MARK(record, BPF_CORE_READ(six, pmtudisc) > PMTU_WANT, LOST_MTU_DISCOVER);
	MARK(record, BPF_CORE_READ(six, opt), LOST_IP_OPTIONS);
	MARK(record, BPF_CORE_READ(six, ipv6_mc_list), LOST_MULTICAST);
	/* CRIU keeps IPV6_RECVPKTINFO, one of these bits. */
	MARK(record, BPF_CORE_READ(six, rxopt.all) & ~IPV6_RXINFO, LOST_ANCILLARY);
}

static __always_inline void read_tcp(struct socket_record *record, void *sk)
{
	struct inet_connection_sock___kernel *connection = sk;
	struct socket_options *options = &record->options;
	struct tcp_sock___kernel *tcp = sk;
	const struct tcp_congestion_ops___kernel *congestion = BPF_CORE_READ(connection, icsk_ca_ops);
	const struct tcp_ulp_ops___kernel *ulp = BPF_CORE_READ(connection, icsk_ulp_ops);

	if (congestion)
		bpf_core_read(options->congestion, NAME_BYTES, &congestion->name);
	if (ulp)
		bpf_core_read(record->ulp, NAME_BYTES, &ulp->name);
	options->user_timeout = BPF_CORE_READ(connection, icsk_user_timeout);
	options->syncnt = BPF_CORE_READ(connection, icsk_syn_retries);
	options->notsent_lowat = BPF_CORE_READ(tcp, notsent_lowat);
	options->window_clamp = BPF_CORE_READ(tcp, window_clamp);
	options->maxseg = BPF_CORE_READ(tcp, rx_opt.user_mss);
	options->thin_linear_timeouts = BPF_CORE_READ_BITFIELD_PROBED(tcp, thin_lto);
	options->save_syn = BPF_CORE_READ_BITFIELD_PROBED(tcp, save_syn);
	MARK(record, BPF_CORE_READ(connection, icsk_accept_queue.rskq_defer_accept), LOST_DEFER_ACCEPT);
	MARK(record, BPF_CORE_READ(connection, icsk_accept_queue.fastopenq.max_qlen), LOST_FASTOPEN);
	MARK(record, BPF_CORE_READ(tcp, linger2), LOST_LINGER2);
	MARK(record, BPF_CORE_READ(tcp, tcp_tx_delay), LOST_TX_DELAY);
	MARK(record, BPF_CORE_READ_BITFIELD_PROBED(tcp, recvmsg_inq), LOST_INQ);
	MARK(record, BPF_CORE_READ_BITFIELD_PROBED(tcp, repair), REFUSED_REPAIR);
	MARK(record, bpf_core_field_exists(tcp->md5sig_info) && BPF_CORE_READ(tcp, md5sig_info), REFUSED_MD5);
}

static __always_inline void read_udp(struct socket_record *record, struct udp_sock___kernel *udp)
{
	MARK(record, BPF_CORE_READ(udp, gso_size), LOST_UDP_SEGMENT);
	MARK(record, bpf_core_field_exists(udp->udp_flags) && BPF_CORE_READ(udp, udp_flags) & UDP_FLAG_GRO, LOST_UDP_GRO);
}

SEC("iter/task_file")
int read_sockets(struct bpf_iter__task_file *ctx)
{
	struct file___kernel *file = ctx->file;
	struct socket_record record = {};
	struct socket___kernel *socket;
	struct sock___kernel *sk;

	if (!file)
		return 0;
	socket = (struct socket___kernel *)bpf_sock_from_file((struct file *)file);
	if (!socket)
		return 0;
	sk = BPF_CORE_READ(socket, sk);
	if (!sk)
		return 0;
	record.family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (record.family != AF_INET && record.family != AF_INET6)
		return 0;
	record.inode = BPF_CORE_READ(file, f_inode, i_ino);
	record.type = BPF_CORE_READ(sk, sk_type);
	record.protocol = BPF_CORE_READ(sk, sk_protocol);
	record.state = BPF_CORE_READ(sk, __sk_common.skc_state);
	read_key(&record.key, &sk->__sk_common);
	read_common(&record, sk);
	read_inet(&record, (void *)sk);
	if (record.type == SOCK_STREAM && record.protocol == IPPROTO_TCP)
		read_tcp(&record, sk);
	else if (record.protocol == IPPROTO_UDP)
		read_udp(&record, (void *)sk);
	bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SOCKETS_MAX);
	__type(key, struct socket_key);
	__type(value, struct socket_options);
} wanted SEC(".maps");

static __always_inline __u32 set(void *sk, int level, int name, int value, __u32 bit)
{
	return bpf_setsockopt(sk, level, name, &value, sizeof(value)) ? 1 << bit : 0;
}

#define SET_IF(wanted, level, name, value, bit)                                \
	do {                                                                   \
		if (wanted)                                                    \
			outcome.failed |= set(sk, level, name, (int)(value), bit); \
	} while (0)

/* The kernel has the socket locked meanwhile. */
SEC("iter/tcp")
int set_sockets(struct bpf_iter__tcp *ctx)
{
	struct socket_outcome outcome = {};
	struct socket_options *options;
	char congestion[NAME_BYTES];
	void *sk = ctx->sk_common;

	if (!sk)
		return 0;
	sk = bpf_skc_to_tcp_sock(sk);
	if (!sk)
		return 0;
	read_key(&outcome.key, sk);
	options = bpf_map_lookup_elem(&wanted, &outcome.key);
	if (!options)
		return 0;
	__builtin_memcpy(congestion, options->congestion, NAME_BYTES);
	if (congestion[0] && bpf_setsockopt(sk, SOL_TCP, TCP_CONGESTION, congestion, NAME_BYTES))
		outcome.failed |= 1;
	SET_IF(options->user_timeout, SOL_TCP, TCP_USER_TIMEOUT, options->user_timeout, 1);
	SET_IF(options->notsent_lowat, SOL_TCP, TCP_NOTSENT_LOWAT, options->notsent_lowat, 2);
	SET_IF(options->window_clamp, SOL_TCP, TCP_WINDOW_CLAMP, options->window_clamp, 3);
	SET_IF(options->maxseg, SOL_TCP, TCP_MAXSEG, options->maxseg, 4);
	SET_IF(options->syncnt, SOL_TCP, TCP_SYNCNT, options->syncnt, 5);
	SET_IF(options->thin_linear_timeouts, SOL_TCP, TCP_THIN_LINEAR_TIMEOUTS, options->thin_linear_timeouts, 6);
	SET_IF(options->save_syn, SOL_TCP, TCP_SAVE_SYN, options->save_syn, 7);
	/* From here the kernel takes 32 bits of it. */
	if (options->max_pacing_rate >= 0xffffffff)
		outcome.failed |= 1 << 8;
	else
		SET_IF(options->max_pacing_rate, SOL_SOCKET, SO_MAX_PACING_RATE, options->max_pacing_rate, 8);
	SET_IF(options->tos, SOL_IP, IP_TOS, options->tos, 9);
	SET_IF(options->tclass, SOL_IPV6, IPV6_TCLASS, options->tclass, 10);
	SET_IF(options->no_reuseport, SOL_SOCKET, SO_REUSEPORT, 0, 11);
	SET_IF(options->no_txrehash, SOL_SOCKET, SO_TXREHASH, 0, 12);
	bpf_seq_write(ctx->meta->seq, &outcome, sizeof(outcome));
	return 0;
}
#else

#define FLOWS_MAX 65536
/* One for each slot of a flow. */
#define WIRE_TUPLES_MAX (2 * FLOWS_MAX)
#define SIDES_MAX 16384
#define LISTENERS_MAX 1024
#define FORWARDS_MAX 16384

#define IPV4_FRAGMENT_BITS 0x3fff /* "more fragments" and the offset */
#define PORTS_BYTES 4
#define IPV6_EXTENSIONS_MAX 2
#define TCP_OFFSET_FLAGS 13
#define TCP_FLAG_BITS_SYN 0x02
#define TCP_FLAG_BITS_RST 0x04
#define TCP_FLAG_BITS_ACK 0x10

/* Since Linux 6.16: the checksum of an IPv6 packet that the device has summed up (CHECKSUM_COMPLETE) stays as it is. */
#define L4_CSUM_IPV6 (1ULL << 7)

/* "Not ours, or done": goes on to whatever filters others have put behind ours, and then on its way. */
#define PASS TC_ACT_UNSPEC

/* In skb->tc_index: translated already, so that the device it leaves by does not look it up a second time. */
#define TRANSLATED 0x05e0

enum { LOCAL, REMOTE, ENDS };

struct tuple {
	__be32 address[ENDS][4]; /* IPv4 as ::ffff:a.b.c.d */
	__be16 port[ENDS];
	__u8 protocol;
	__u8 pad[3];
};

struct egress_key {
	struct tuple virtual;
	__u32 scope; /* 0: the host's own sockets; otherwise the host end of the veth of the cell that has the socket */
};

/*
 * What a checksum has to be changed by for the addresses and for the ports, each a folded one's complement sum of this
 * host's 16-bit words. Computed once per flow by layout.ts, not once per packet here.
 */
struct difference {
	__u16 addresses;
	__u16 ports;
};

struct ingress_value {
	struct tuple virtual;
	__u32 local_side;
	__u32 remote_side;
	struct difference difference;
	__u32 slot; /* which of the two wire endpoints of the remote side this key has */
};

struct wire_slot {
	__be32 address[4];
	__be16 port; /* 0: unused */
	__u16 identity; /* 1: nothing differs between the virtual and the wire tuple */
	__u32 ifindex;
	struct difference difference;
};

struct egress_value {
	__be32 local_address[4];
	__be16 local_port;
	__u16 pad;
	__u32 local_side;
	__u32 remote_side;
	struct wire_slot slots[2];
};

enum side_state { HOME, ARMED, MOVED, HELD, FENCED, QUEUED, LEAVING };

struct side {
	__u8 state;
	__u8 active; /* slot that packets to it go to */
	__u8 accept; /* bit s: packets from slot s are let in */
	__u8 pad;
	__u32 ifindex; /* host end of the cell's veth; 0: in the host's own namespace */
};

struct listener {
	__be32 address[4]; /* :: for any address, ::ffff:0.0.0.0 for any of IPv4 */
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

enum counter {
	TRANSLATED_IN,
	TRANSLATED_OUT,
	DROPPED_FENCED,
	DROPPED_STALE,
	DROPPED_HELD,
	DROPPED_SYN,
	DROPPED_UNKNOWN,
	PASSED_FRAGMENTS,
	ERRORS,
	FORWARDED,
	QUEUED_IN,
	COUNTERS
};

_Static_assert(sizeof(struct tuple) == 40, "layout.ts");
_Static_assert(sizeof(struct egress_key) == 44, "layout.ts");
_Static_assert(sizeof(struct ingress_value) == 56, "layout.ts");
_Static_assert(sizeof(struct egress_value) == 84, "layout.ts");
_Static_assert(sizeof(struct side) == 8, "layout.ts");
_Static_assert(sizeof(struct listener) == 20, "layout.ts");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, WIRE_TUPLES_MAX);
	__type(key, struct tuple);
	__type(value, struct ingress_value);
} ingress SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FLOWS_MAX);
	__type(key, struct egress_key);
	__type(value, struct egress_value);
} egress SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SIDES_MAX);
	__type(key, __u32);
	__type(value, struct side);
} sides SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, LISTENERS_MAX);
	__type(key, struct listener);
	__type(value, __u32);
} listeners SEC(".maps");

/* Wire endpoint here and address of the peer (its port is zero) -> where the destination of a move will take it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FORWARDS_MAX);
	__type(key, struct tuple);
	__type(value, struct wire_slot);
} forwards SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

static __always_inline int drop(__u32 counter)
{
	count(counter);
	return TC_ACT_SHOT;
}

/* Where the headers of a packet are, and which of the two ends in a tuple its source is. */
struct packet {
	__u32 l4;
	__u32 source;
	bool ipv6;
};

enum parsed { FOREIGN, FRAGMENT, WHOLE };

/* The headers, if the packet has so many bytes; a device may have left them in pages, then they are pulled together. */
static __always_inline void *headers(struct __sk_buff *skb, __u32 bytes)
{
	if ((void *)(long)skb->data + bytes > (void *)(long)skb->data_end && bpf_skb_pull_data(skb, bytes))
		return NULL;
	if ((void *)(long)skb->data + bytes > (void *)(long)skb->data_end)
		return NULL;
	return (void *)(long)skb->data;
}

static __always_inline enum parsed parse_ports(const struct packet *packet, struct tuple *tuple, const __be16 *ports)
{
	tuple->port[packet->source] = ports[0];
	tuple->port[!packet->source] = ports[1];
	return tuple->protocol == IPPROTO_TCP || tuple->protocol == IPPROTO_UDP ? WHOLE : FOREIGN;
}

/* IPv4 options and IPv6 extension headers put the ports where the fast path does not look. */
static __always_inline enum parsed parse_ports_at(struct __sk_buff *skb, const struct packet *packet,
						  struct tuple *tuple)
{
	__be16 ports[2];

	if (bpf_skb_load_bytes(skb, packet->l4, ports, sizeof(ports)))
		return FOREIGN;
	return parse_ports(packet, tuple, ports);
}

static __always_inline enum parsed parse_ipv4(struct __sk_buff *skb, struct packet *packet, struct tuple *tuple)
{
	struct iphdr *ip = headers(skb, ETH_HLEN + sizeof(*ip) + PORTS_BYTES);

	if (!ip)
		return FOREIGN;
	ip = (void *)ip + ETH_HLEN;
	if (ip->frag_off & bpf_htons(IPV4_FRAGMENT_BITS))
		return FRAGMENT;
	tuple->address[LOCAL][2] = tuple->address[REMOTE][2] = bpf_htonl(0xffff);
	tuple->address[packet->source][3] = ip->saddr;
	tuple->address[!packet->source][3] = ip->daddr;
	tuple->protocol = ip->protocol;
	packet->l4 = ETH_HLEN + ip->ihl * 4;
	if (ip->ihl == sizeof(*ip) / 4)
		return parse_ports(packet, tuple, (__be16 *)(ip + 1));
	return parse_ports_at(skb, packet, tuple);
}

static __always_inline enum parsed parse_extensions(struct __sk_buff *skb, struct packet *packet, struct tuple *tuple)
{
	__u8 extension[2]; /* next header, length in 8 bytes without the first */
	int i;

	for (i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		if (tuple->protocol != IPPROTO_HOPOPTS && tuple->protocol != IPPROTO_DSTOPTS)
			break;
		if (bpf_skb_load_bytes(skb, packet->l4, extension, sizeof(extension)))
			return FOREIGN;
		tuple->protocol = extension[0];
		packet->l4 += (extension[1] + 1) * 8;
	}
	return tuple->protocol == IPPROTO_FRAGMENT ? FRAGMENT : parse_ports_at(skb, packet, tuple);
}

static __always_inline enum parsed parse_ipv6(struct __sk_buff *skb, struct packet *packet, struct tuple *tuple)
{
	struct ipv6hdr *ip = headers(skb, ETH_HLEN + sizeof(*ip) + PORTS_BYTES);

	if (!ip)
		return FOREIGN;
	ip = (void *)ip + ETH_HLEN;
	__builtin_memcpy(tuple->address[packet->source], &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(tuple->address[!packet->source], &ip->daddr, sizeof(ip->daddr));
	tuple->protocol = ip->nexthdr;
	packet->ipv6 = true;
	packet->l4 = ETH_HLEN + sizeof(*ip);
	if (tuple->protocol == IPPROTO_TCP || tuple->protocol == IPPROTO_UDP)
		return parse_ports(packet, tuple, (__be16 *)(ip + 1));
	return parse_extensions(skb, packet, tuple);
}

/* Fills in `packet` (all but its source) and `tuple`, which the caller has zeroed. */
static __always_inline enum parsed parse(struct __sk_buff *skb, struct packet *packet, struct tuple *tuple)
{
	/* A tagged frame belongs to a VLAN device, which has tc hooks of its own. */
	if (skb->vlan_present)
		return FOREIGN;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, packet, tuple);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, packet, tuple);
	return FOREIGN;
}

/* RFC 1624: the new checksum is the complement of the sum of the old one's complement and the difference. */
static __always_inline __sum16 checksum_changed(__sum16 old, __u16 difference)
{
	__u32 sum = (__u16)~old + difference;

	return (__sum16)~((sum & 0xffff) + (sum >> 16));
}

static __always_inline bool write_ipv4(struct __sk_buff *skb, __u32 source, const struct tuple *to, __u16 difference)
{
	struct iphdr *ip = headers(skb, ETH_HLEN + sizeof(*ip));

	if (!ip)
		return false;
	ip = (void *)ip + ETH_HLEN;
	ip->saddr = to->address[source][3];
	ip->daddr = to->address[!source][3];
	ip->check = checksum_changed(ip->check, difference);
	return true;
}

static __always_inline bool write_ipv6(struct __sk_buff *skb, __u32 source, const struct tuple *to)
{
	struct ipv6hdr *ip = headers(skb, ETH_HLEN + sizeof(*ip));

	if (!ip)
		return false;
	ip = (void *)ip + ETH_HLEN;
	__builtin_memcpy(&ip->saddr, to->address[source], sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, to->address[!source], sizeof(ip->daddr));
	return true;
}

/*
 * The helper knows what state the device or the stack has left the checksum in: complete, or to be completed by the
 * device that the packet leaves by, and then only the addresses are in it so far.
 */
static __always_inline long change_checksum(struct __sk_buff *skb, const struct packet *packet, bool udp,
					    struct difference difference)
{
	__u32 offset = packet->l4 + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	/* A UDP checksum of zero means "none": it stays zero, and none that was computed becomes zero. */
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
	__u64 pseudo = flags | BPF_F_PSEUDO_HDR;
	long failed = 0;

	if (difference.addresses) {
		if (packet->ipv6)
			failed = bpf_l4_csum_replace(skb, offset, 0, difference.addresses, pseudo | L4_CSUM_IPV6);
		/* An older kernel refuses that flag, before it has touched anything. */
		if (!packet->ipv6 || failed)
			failed = bpf_l4_csum_replace(skb, offset, 0, difference.addresses, pseudo);
	}
	if (difference.ports)
		failed |= bpf_l4_csum_replace(skb, offset, 0, difference.ports, flags);
	return failed;
}

static __always_inline bool rewrite(struct __sk_buff *skb, const struct packet *packet, bool udp,
				    const struct tuple *to, struct difference difference)
{
	__be16 ports[2] = { to->port[packet->source], to->port[!packet->source] };

	if (packet->ipv6 ? !write_ipv6(skb, packet->source, to) :
			   !write_ipv4(skb, packet->source, to, difference.addresses))
		return false;
	return !bpf_skb_store_bytes(skb, packet->l4, ports, sizeof(ports), 0) &&
	       !change_checksum(skb, packet, udp, difference);
}

/* A connection that would be set up with a process that is about to be frozen: its SYN is dropped and comes again. */
static __always_inline bool is_fenced_syn(struct __sk_buff *skb, const struct packet *packet, const struct tuple *tuple)
{
	struct listener key = { .port = tuple->port[LOCAL], .protocol = tuple->protocol };
	__u8 flags;

	if (tuple->protocol != IPPROTO_TCP)
		return false;
	if (bpf_skb_load_bytes(skb, packet->l4 + TCP_OFFSET_FLAGS, &flags, sizeof(flags)))
		return false;
	if ((flags & (TCP_FLAG_BITS_SYN | TCP_FLAG_BITS_ACK)) != TCP_FLAG_BITS_SYN)
		return false;
	if (bpf_map_lookup_elem(&listeners, &key))
		return true;
	if (!packet->ipv6) {
		key.address[2] = bpf_htonl(0xffff);
		if (bpf_map_lookup_elem(&listeners, &key))
			return true;
	}
	__builtin_memcpy(key.address, tuple->address[LOCAL], sizeof(key.address));
	return bpf_map_lookup_elem(&listeners, &key);
}

/*
 * A packet for a process that is frozen here: on to the destination, which keeps it for the process. Without this the
 * peer would say it again only when its retransmission timer, backed off meanwhile, lets it.
 */
static __always_inline int forward(struct __sk_buff *skb, const struct packet *packet, const struct tuple *wire)
{
	struct tuple to = *wire;
	struct wire_slot *place;

	to.port[REMOTE] = 0;
	place = bpf_map_lookup_elem(&forwards, &to);
	if (!place)
		return drop(DROPPED_FENCED);
	to.port[REMOTE] = wire->port[REMOTE];
	__builtin_memcpy(to.address[LOCAL], place->address, sizeof(place->address));
	to.port[LOCAL] = place->port;
	if (!rewrite(skb, packet, wire->protocol == IPPROTO_UDP, &to, place->difference))
		return drop(ERRORS);
	count(FORWARDED);
	skb->tc_index = TRANSLATED;
	return bpf_redirect_neigh(place->ifindex, NULL, 0, 0);
}

/*
 * A packet for a process that is being restored: it waits in the queue of a neighbour that is not resolved yet (the
 * agent resolves it once the process runs), bounded by the device's neighbour table settings.
 */
static __always_inline int queue(const struct packet *packet, const struct tuple *virtual, __u32 cell)
{
	struct bpf_redir_neigh next = {};

	next.nh_family = packet->ipv6 ? AF_INET6 : AF_INET;
	if (packet->ipv6)
		__builtin_memcpy(next.ipv6_nh, virtual->address[LOCAL], sizeof(next.ipv6_nh));
	else
		next.ipv4_nh = virtual->address[LOCAL][3];
	count(QUEUED_IN);
	return bpf_redirect_neigh(cell, &next, sizeof(next), 0);
}

/* From a place that the cell is not at yet: the host there knows nothing of the connection, or no more (an undone move). */
static __always_inline bool is_reset(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 flags;

	return !bpf_skb_load_bytes(skb, packet->l4 + TCP_OFFSET_FLAGS, &flags, sizeof(flags)) &&
	       (flags & TCP_FLAG_BITS_RST);
}

SEC("tc")
int from_wire(struct __sk_buff *skb)
{
	struct packet packet = { .source = REMOTE };
	struct ingress_value *flow;
	struct tuple wire = {};
	struct side *side;
	bool queued = false;
	__u32 cell = 0;

	/* What is passing by another host's MAC address (a promiscuous device) is not ours. */
	if (skb->pkt_type != PACKET_HOST)
		return PASS;
	switch (parse(skb, &packet, &wire)) {
	case FOREIGN:
		return PASS;
	case FRAGMENT:
		count(PASSED_FRAGMENTS);
		return PASS;
	case WHOLE:
		break;
	}
	flow = bpf_map_lookup_elem(&ingress, &wire);
	if (!flow)
		return is_fenced_syn(skb, &packet, &wire) ? drop(DROPPED_SYN) : PASS;
	if (flow->local_side) {
		side = bpf_map_lookup_elem(&sides, &flow->local_side);
		if (!side)
			return drop(ERRORS);
		if (side->state == LEAVING)
			return forward(skb, &packet, &wire);
		if (side->state == FENCED)
			return drop(DROPPED_FENCED);
		cell = side->ifindex;
		queued = side->state == QUEUED && cell;
	}
	if (flow->remote_side) {
		side = bpf_map_lookup_elem(&sides, &flow->remote_side);
		if (!side)
			return drop(ERRORS);
		if (side->state == FENCED)
			return drop(DROPPED_FENCED);
		if (!(side->accept >> (flow->slot & 1) & 1))
			return drop(DROPPED_STALE);
		if (flow->slot != side->active && wire.protocol == IPPROTO_TCP && is_reset(skb, &packet))
			return drop(DROPPED_STALE);
	}
	if (!rewrite(skb, &packet, wire.protocol == IPPROTO_UDP, &flow->virtual, flow->difference))
		return drop(ERRORS);
	if (queued)
		return queue(&packet, &flow->virtual, cell);
	count(TRANSLATED_IN);
	return cell ? bpf_redirect_peer(cell, 0) : PASS;
}

/* ARP and neighbour discovery are between a cell and its host; nothing else may get from a cell into its host. */
static __always_inline bool is_between_neighbours(struct __sk_buff *skb, const struct tuple *tuple)
{
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return tuple->protocol == IPPROTO_ICMPV6;
	return skb->protocol == bpf_htons(ETH_P_ARP);
}

/* Both ways out. `scope` as in struct egress_key. */
static __always_inline int leave(struct __sk_buff *skb, __u32 scope)
{
	struct packet packet = { .source = LOCAL };
	struct egress_key key = { .scope = scope };
	struct tuple wire = {};
	struct egress_value *flow;
	struct wire_slot *slot;
	struct side *side;
	__u32 active = 0;

	switch (parse(skb, &packet, &key.virtual)) {
	case FOREIGN:
		return scope && !is_between_neighbours(skb, &key.virtual) ? drop(DROPPED_UNKNOWN) : PASS;
	case FRAGMENT:
		count(PASSED_FRAGMENTS);
		return scope ? TC_ACT_SHOT : PASS;
	case WHOLE:
		break;
	}
	flow = bpf_map_lookup_elem(&egress, &key);
	if (!flow)
		return scope ? drop(DROPPED_UNKNOWN) : PASS;
	if (flow->local_side) {
		side = bpf_map_lookup_elem(&sides, &flow->local_side);
		if (!side)
			return drop(ERRORS);
		if (side->state == FENCED || side->state == QUEUED)
			return drop(DROPPED_FENCED);
	}
	if (flow->remote_side) {
		side = bpf_map_lookup_elem(&sides, &flow->remote_side);
		if (!side)
			return drop(ERRORS);
		if (side->state == FENCED)
			return drop(DROPPED_FENCED);
		if (side->state == HELD)
			return drop(DROPPED_HELD);
		active = side->active & 1;
	}
	slot = &flow->slots[active];
	if (!slot->port)
		return drop(ERRORS);

	if (slot->identity && !scope)
		return PASS;
	__builtin_memcpy(wire.address[LOCAL], flow->local_address, sizeof(flow->local_address));
	__builtin_memcpy(wire.address[REMOTE], slot->address, sizeof(slot->address));
	wire.port[LOCAL] = flow->local_port;
	wire.port[REMOTE] = slot->port;
	if (!rewrite(skb, &packet, key.virtual.protocol == IPPROTO_UDP, &wire, slot->difference))
		return drop(ERRORS);
	count(TRANSLATED_OUT);
	skb->tc_index = TRANSLATED;
	return bpf_redirect_neigh(slot->ifindex, NULL, 0, 0);
}

SEC("tc")
int to_wire(struct __sk_buff *skb)
{
	/* It has been here, or in from_cell, and bpf_redirect_neigh has sent it on. */
	if (skb->tc_index == TRANSLATED) {
		skb->tc_index = 0;
		return PASS;
	}
	return leave(skb, 0);
}

SEC("tc")
int from_cell(struct __sk_buff *skb)
{
	return leave(skb, skb->ifindex);
}
#endif
