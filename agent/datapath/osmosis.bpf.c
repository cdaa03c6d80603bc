// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The datapath: tc programs that rewrite the addresses and ports of exactly the flows that they are told about.
 *
 *   from_wire  ingress of a physical device   wire tuple    -> virtual tuple, then into the cell or up the host's stack
 *   to_wire    egress of a physical device    virtual tuple -> wire tuple, for sockets in the host's own namespace
 *   from_cell  ingress of a cell's host end   virtual tuple -> wire tuple, for sockets in the cell
 *
 * and two inside a cell, for flows whose other end has an address of the cell's own, though it is elsewhere:
 *
 *   cell_out   egress of the cell's lo        out of the cell, instead of round
 *   cell_in    ingress of the cell's eth0     up the cell's stack by way of its lo
 *
 * and one more there while the cell has flows with a suspended one:
 *
 *   cell_held  egress of the cell's eth0      answers in its place, where TCP still hears what became of a packet
 *
 * and one for datagrams that wait until somebody is back:
 *
 *   from_room  ingress of a room's far end    into the queue of its near end, and out of it
 *
 * docs/datapath.md has the model. The layouts below are repeated in layout.ts; e2e/datapath-programs.test.ts compares the two.
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
 *   set_timeouts  the same for TCP_USER_TIMEOUT alone, of connections of a suspended cell: see socket-timeouts.ts
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

/* Bits of socket_record.lost, in the order of the names in socket-layout.ts. */
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

struct timeout_change {
	struct socket_key key;
	__u32 was; /* ms */
};

/* In socket_options.user_timeout, for set_timeouts: none, for as long as the other end is suspended. */
#define TIMEOUT_LIFTED 0xffffffff
/*
 * ms. Of a socket that its process has closed: without one its kernel gives it up after some 100 s without progress. And of one
 * with data in flight: that counts from the first time that it was repeated, so it would be over when the cell is back.
 */
#define TIMEOUT_ENDLESS 0x7fffffff

_Static_assert(sizeof(struct timeout_change) == 40, "socket-layout.ts");
_Static_assert(sizeof(struct socket_key) == 36, "socket-layout.ts");
_Static_assert(sizeof(struct socket_options) == 48, "socket-layout.ts");
_Static_assert(sizeof(struct socket_record) == 128, "socket-layout.ts");
_Static_assert(sizeof(struct socket_outcome) == 40, "socket-layout.ts");

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
	__u32 packets_out;
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
	SOCK_DEAD___kernel,
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

/* Lifts the timeouts of the sockets in `wanted`, or gives those back that are as they were left: their owner may have set others. */
SEC("iter/tcp")
int set_timeouts(struct bpf_iter__tcp *ctx)
{
	struct inet_connection_sock___kernel *connection;
	struct timeout_change change = {};
	struct socket_options *options;
	void *sk = ctx->sk_common;
	__u32 next;
	bool dead;

	if (!sk)
		return 0;
	sk = bpf_skc_to_tcp_sock(sk);
	if (!sk)
		return 0;
	read_key(&change.key, sk);
	options = bpf_map_lookup_elem(&wanted, &change.key);
	if (!options)
		return 0;
	connection = sk;
	change.was = BPF_CORE_READ(connection, icsk_user_timeout);
	dead = HAS_FLAG(BPF_CORE_READ((struct sock_common___kernel *)sk, skc_flags), SOCK_DEAD);
	next = options->user_timeout;
	if (next == TIMEOUT_LIFTED)
		next = dead || BPF_CORE_READ((struct tcp_sock___kernel *)sk, packets_out) ? TIMEOUT_ENDLESS : 0;
	else if (change.was && change.was != TIMEOUT_ENDLESS)
		return 0;
	if (change.was != next && !set(sk, SOL_TCP, TCP_USER_TIMEOUT, next, 0))
		bpf_seq_write(ctx->meta->seq, &change, sizeof(change));
	return 0;
}
#else

#define FLOWS_MAX 65536
/* One for each slot of a flow. */
#define WIRE_TUPLES_MAX (2 * FLOWS_MAX)
#define SIDES_MAX 16384
#define LISTENERS_MAX 1024
#define FORWARDS_MAX 16384
#define WATCHED_MAX 1024
#define SEEN_MAX 16384
#define CELLS_MAX 4096
/* Datagrams whose fragments are on their way; the one that has been used least makes room. */
#define FRAGMENTED_MAX 8192
/* As long as a Linux host waits for the missing fragments of a datagram. */
#define FRAGMENTS_NS_MAX 30000000000ULL
#define ACCEPTS_MAX 1024
#define FOLLOWS_MAX 1024
#define WAYS_OUT_MAX 1024
#define LABELS_MAX 16384
/* Numbers of rules; 0 is no rule. */
#define RULES_MAX 4096
/* Sockets whose segments for a suspended cell have been answered; the one that has said nothing for longest makes room. */
#define ANSWERED_MAX 16384
/* Rooms for datagrams that wait: as rooms.ts has it. */
#define ROOMS_MAX 64
/* One for each end of a flow, and once more for each if it comes out just as another is made. */
#define ROOMS_PASSED_MAX 4
/* A segment is answered so often at most: see `stand_in`. */
#define ANSWER_NS_MIN 50000000ULL
/* Answers go no further than to the socket, some of which believe only what has passed no router (RFC 5082). */
#define ANSWER_HOPS 255
/* So many labels in a row may be taken before a new flow is dropped; its next packet tries on from there. */
#define LABEL_TRIES_MAX 16

#define IPV4_FRAGMENT_BITS 0x3fff /* "more fragments" and the offset */
#define IPV4_OFFSET_BITS 0x1fff
#define IPV4_DONT_FRAGMENT 0x4000
#define IPV6_FRAGMENT_BITS 0xfff9
#define IPV6_OFFSET_BITS 0xfff8
#define PORTS_BYTES 4
/* linux/icmp.h needs a C library's headers for the machine at hand. */
#define ICMP_BYTES 8
#define ICMP_CHECKSUM 2
#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_PARAMPROB 4
#define IPV6_EXTENSIONS_MAX 2
#define TCP_OFFSET_FLAGS 13
#define TCP_HEADER_BYTES_MAX 60
#define TCP_FLAG_BITS_FIN 0x01
#define TCP_FLAG_BITS_SYN 0x02
#define TCP_FLAG_BITS_RST 0x04
#define TCP_FLAG_BITS_ACK 0x10

/* The neighbour that packets for a cell wait for while it is restored, as in cell/namespaces.ts; nobody has it. */
#define WAITING_IPV4 0xa9fe0102 /* 169.254.1.2 */
#define WAITING_IPV6_LAST 2 /* fe80::2 */

/* Since Linux 6.16: the checksum of an IPv6 packet that the device has summed up (CHECKSUM_COMPLETE) stays as it is. */
#define L4_CSUM_IPV6 (1ULL << 7)

/* "Not ours, or done": goes on to whatever filters others have put behind ours, and then on its way. */
#define PASS TC_ACT_UNSPEC

/* In skb->tc_index: translated already, so that the device it leaves by does not look it up a second time. */
#define TRANSLATED 0x05e0
/* In skb->tc_index: translated already, and on its way up the host's stack by way of the loopback device. */
#define DELIVERED 0x05e1
/* In skb->tc_index: so many rooms passed, and on its way into the next one, or (OUT_OF_ROOM) coming out of it. */
#define INTO_ROOM 0x0600
#define OUT_OF_ROOM 0x0610
#define ROOMS_PASSED_BITS 0xf

/* The kernel gives the loopback device this index in every network namespace. */
#define LOOPBACK_IFINDEX 1
/* In egress_key.scope: a flow that this host carries on for a peer without an agent. */
#define RELAY 0xffffffff
/* In ingress_value.slot: from the peer that is relayed for, not from either slot of the remote side. */
#define FROM_RELAYED 2

enum { LOCAL, REMOTE, ENDS };

struct tuple {
	__be32 address[ENDS][4]; /* IPv4 as ::ffff:a.b.c.d */
	__be16 port[ENDS];
	__u8 protocol;
	__u8 pad[3];
};

struct egress_key {
	struct tuple virtual;
	__u32 scope; /* 0: the host's own sockets; RELAY; otherwise the host end of the veth of the cell that has the socket */
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
	__u32 slot; /* which of the two wire endpoints of the remote side this key has, or FROM_RELAYED */
	__u32 via; /* device that packets for the local end leave by; 0: into the cell, or up the host's stack */
	__u32 used; /* see note_use */
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
	__u16 rule; /* number of the rule that the flow was created by; 0: entered by the agent */
	__u32 local_side;
	__u32 remote_side;
	__u32 via; /* as in struct ingress_value: so that the whole flow can be read from here */
	struct wire_slot slots[2];
	__u32 used; /* see note_use */
};

/* Of a flow with scope RELAY, by its virtual tuple. */
struct relay_state {
	__u64 ns; /* when the last packet passed, either way */
	__u8 ended; /* bits below; always 0 for UDP */
	__u8 pad[3];
	__u32 received; /* what the cell has acknowledged to the peer last, if RECEIVED_KNOWN */
};

/* A reset that its receiver does not take is answered: then it was not the last. */
enum { FIN_OF_PEER = 1, FIN_OF_CELL = 2, LAST_WAS_RESET = 4, RECEIVED_KNOWN = 8 };

/* From FENCED on nobody takes what comes in, from LEAVING on it is sent on. */
enum side_state { HOME, ARMED, MOVED, HELD, FENCED, QUEUED, LEAVING, FROZEN };

struct side {
	__u8 state;
	__u8 active; /* slot that packets to it go to */
	__u8 accept; /* bit s: packets from slot s are let in */
	__u8 resumed; /* 1: the process runs again only now, see `announce` */
	__u32 ifindex; /* host end of the cell's veth; 0: in the host's own namespace */
	__u32 room; /* where datagrams to it, or of a local one from it, wait in whatever state it is; 0: nowhere */
};

/* A veth of this host's with both ends here. What waits is in a neighbour's queue at the near end. */
struct room {
	__u32 near;
	__u32 side; /* whose it is; for the agent */
	__u32 late_ms; /* what has waited for longer than this is dropped when it comes out */
	__u32 pad;
	__u64 came;
	__u64 left;
	__u64 late;
};

struct listener {
	__be32 address[4]; /* :: for any address, ::ffff:0.0.0.0 for any of IPv4 */
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

/* A cell, as the programs inside it need to know it. */
struct cell {
	__u32 scope; /* host end of its veth */
	__u32 ifindex; /* the end inside */
};

/* What the first fragment of a datagram looked like when it came, and where: the later ones have no ports. */
struct fragment_key {
	struct tuple from; /* its ports are zero */
	__be32 identification;
	__u32 scope; /* as in struct egress_key, or FROM_WIRE */
};

/* Neither a device nor RELAY. */
#define FROM_WIRE 0xfffffffe

/* RELAYED_ON is to where the cell is now, RELAYED_BACK to the peer. */
enum way { TO_STACK, INTO_CELL, INTO_QUEUE, ONTO_WIRE, INTO_A_ROOM, RELAYED_ON, RELAYED_BACK };

struct where {
	__u32 ifindex;
	__u8 way;
	__u8 loopback; /* up the stack by way of the loopback device */
	__u16 difference; /* of the addresses */
};

/* What became of the first fragment, and so becomes of the later ones. */
struct fragment_value {
	__u64 ns; /* when it was */
	struct tuple to;
	struct where where;
};

/* An endpoint that new flows are known by. */
struct place {
	__be32 address[4];
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

/* How flows come to be without the agent. What the members mean depends on the map. */
struct rule {
	__be32 address[4]; /* accepts: virtual local; follows: where the remote end is; ways_out: own, on the wire */
	__be16 port; /* its port; ways_out: 0 */
	__u16 number; /* where `spent` has it */
	__u32 ifindex; /* accepts: scope of the cell; otherwise the device that packets leave by */
	__u32 side; /* local; follows: remote */
	__u32 limit; /* of `spent`, which wraps around */
	__u16 label_first;
	__u16 labels; /* so many, from the first on; follows: none unless this host relays */
	__u16 flows_max; /* what the agent works out `limit` from */
	__u16 pad;
};

/* Longest prefix of the wire address of the remote end. */
struct way_key {
	__u32 bits; /* those of the scope included */
	__u32 scope;
	__be32 address[4];
};

struct label_owner {
	struct place local; /* virtual */
	__u32 scope;
};

struct label {
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
	RELAYED,
	TRANSLATED_ICMP,
	CREATED,
	DROPPED_FULL,
	DROPPED_LABELS,
	DROPPED_CLASH,
	ANSWERED,
	WAITED,
	LET_OUT,
	DROPPED_LATE,
	COUNTERS
};

_Static_assert(sizeof(struct tuple) == 40, "layout.ts");
_Static_assert(sizeof(struct egress_key) == 44, "layout.ts");
_Static_assert(sizeof(struct ingress_value) == 64, "layout.ts");
_Static_assert(sizeof(struct egress_value) == 92, "layout.ts");
_Static_assert(sizeof(struct relay_state) == 16, "layout.ts");
_Static_assert(sizeof(struct side) == 12, "layout.ts");
_Static_assert(sizeof(struct room) == 40, "layout.ts");
_Static_assert(sizeof(struct listener) == 20, "layout.ts");
_Static_assert(sizeof(struct cell) == 8, "layout.ts");
_Static_assert(sizeof(struct place) == 20, "layout.ts");
_Static_assert(sizeof(struct rule) == 40, "layout.ts");
_Static_assert(sizeof(struct way_key) == 24, "layout.ts");
_Static_assert(sizeof(struct label_owner) == 24, "layout.ts");
_Static_assert(sizeof(struct label) == 4, "layout.ts");

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

/* For each flow with scope RELAY: whether it has ended. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FLOWS_MAX);
	__type(key, struct tuple);
	__type(value, struct relay_state);
} relays SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SIDES_MAX);
	__type(key, __u32);
	__type(value, struct side);
} sides SEC(".maps");

/* By its far end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, ROOMS_MAX);
	__type(key, __u32);
	__type(value, struct room);
} rooms SEC(".maps");

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

/* UDP ports of this host whose correspondents are being learnt (seen.ts): for about a second in a host's lifetime. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, WATCHED_MAX);
	__type(key, __u32);
	__type(value, __u32);
} watched SEC(".maps");

/* Virtual tuples of the datagrams that came to or went from those ports. What does not fit is not learnt. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SEEN_MAX);
	__type(key, struct tuple);
	__type(value, __u32);
} seen SEC(".maps");

/* By the class that the filter inside the cell has: nothing else tells a program which namespace it runs in. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CELLS_MAX);
	__type(key, __u32);
	__type(value, struct cell);
} cells SEC(".maps");

/* For the programs alone; the agent has nothing to do with it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAGMENTED_MAX);
	__type(key, struct fragment_key);
	__type(value, struct fragment_value);
} fragments SEC(".maps");

/* By the cookie of a socket: when what it says to a suspended cell was answered last. For the programs alone. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, ANSWERED_MAX);
	__type(key, __u64);
	__type(value, __u64);
} answered SEC(".maps");

/* What an end that is not there would say, if it were and had no room: its next byte, and the first that it has not got. */
struct last_word {
	__u32 next;
	__u32 received;
	bool closing; /* the socket that it is said to has no more to send than what is queued */
	bool unrepeated; /* something is in flight, and has not been repeated yet */
};

/* An answer while it is put together: too large for the stack. */
struct answer {
	struct tcphdr asked; /* what it is an answer to */
	struct last_word said;
	union {
		struct {
			struct iphdr ip;
			struct tcphdr tcp;
		} v4;
		struct {
			struct ipv6hdr ip;
			struct tcphdr tcp;
		} v6;
	};
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answer);
} answers SEC(".maps");

/* Wire endpoint here -> the cell that new flows to it are for. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, ACCEPTS_MAX);
	__type(key, struct place);
	__type(value, struct rule);
} accepts SEC(".maps");

/* Virtual endpoint of a cell elsewhere -> where new flows to it go. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FOLLOWS_MAX);
	__type(key, struct place);
	__type(value, struct rule);
} follows SEC(".maps");

/* Cell and destination -> as whom, and by which device, new flows of the cell go out. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, WAYS_OUT_MAX);
	__type(key, struct way_key);
	__type(value, struct rule);
} ways_out SEC(".maps");

/* The labels that these programs have drawn, by who has them ... */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, LABELS_MAX);
	__type(key, struct label_owner);
	__type(value, struct label);
} labels SEC(".maps");

/* ... and whose they are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, LABELS_MAX);
	__type(key, struct label);
	__type(value, struct label_owner);
} drawn SEC(".maps");

/* Flows that each rule has created, by its number; at 0, which is no rule, the tries to draw a label. Agents read it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RULES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} spent SEC(".maps");

/* A flow while it is put together: too large for the stack. */
struct draft {
	struct egress_key key;
	struct egress_value way_out;
	struct tuple wire;
	struct ingress_value way_in;
	struct label_owner owner;
	__u64 flags; /* of the update of `egress` */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct draft);
} drafts SEC(".maps");

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

/* Of sequence numbers, which wrap around. */
static __always_inline bool is_before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

/* Where the headers of a packet are, and which of the two ends in a tuple its source is. */
struct packet {
	__u32 l4;
	__u32 source;
	__be32 identification; /* of a fragment */
	bool ipv6;
	bool first; /* of several fragments */
};

/* FRAGMENT is one without ports: any but the first. */
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

static __always_inline bool has_ports(const struct tuple *tuple)
{
	return tuple->protocol == IPPROTO_TCP || tuple->protocol == IPPROTO_UDP;
}

static __always_inline enum parsed parse_ports(const struct packet *packet, struct tuple *tuple, const __be16 *ports)
{
	tuple->port[packet->source] = ports[0];
	tuple->port[!packet->source] = ports[1];
	return has_ports(tuple) ? WHOLE : FOREIGN;
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

static __always_inline void parse_ipv4_header(const struct iphdr *ip, struct packet *packet, struct tuple *tuple)
{
	tuple->address[LOCAL][2] = tuple->address[REMOTE][2] = bpf_htonl(0xffff);
	tuple->address[packet->source][3] = ip->saddr;
	tuple->address[!packet->source][3] = ip->daddr;
	tuple->protocol = ip->protocol;
	packet->l4 += ip->ihl * 4;
	if (ip->frag_off & bpf_htons(IPV4_FRAGMENT_BITS)) {
		packet->identification = ip->id;
		packet->first = !(ip->frag_off & bpf_htons(IPV4_OFFSET_BITS));
	}
}

static __always_inline enum parsed parse_ipv4(struct __sk_buff *skb, struct packet *packet, struct tuple *tuple)
{
	/* The last fragment of a datagram may have one byte of it only. */
	struct iphdr *ip = headers(skb, ETH_HLEN + sizeof(*ip));

	if (!ip)
		return FOREIGN;
	ip = (void *)ip + ETH_HLEN;
	packet->l4 = ETH_HLEN;
	parse_ipv4_header(ip, packet, tuple);
	if (ip->frag_off & bpf_htons(IPV4_OFFSET_BITS))
		return has_ports(tuple) ? FRAGMENT : FOREIGN;
	if (ip->ihl != sizeof(*ip) / 4)
		return parse_ports_at(skb, packet, tuple);
	ip = headers(skb, ETH_HLEN + sizeof(*ip) + PORTS_BYTES);
	return ip ? parse_ports(packet, tuple, (void *)(ip + 1) + ETH_HLEN) : FOREIGN;
}

static __always_inline enum parsed parse_ipv6_fragment(struct __sk_buff *skb, struct packet *packet,
						       struct tuple *tuple)
{
	struct {
		__u8 next;
		__u8 reserved;
		__be16 offset;
		__be32 identification;
	} header;

	if (bpf_skb_load_bytes(skb, packet->l4, &header, sizeof(header)))
		return FOREIGN;
	tuple->protocol = header.next;
	packet->l4 += sizeof(header);
	packet->identification = header.identification;
	if (header.offset & bpf_htons(IPV6_OFFSET_BITS))
		return has_ports(tuple) ? FRAGMENT : FOREIGN;
	packet->first = header.offset & bpf_htons(IPV6_FRAGMENT_BITS);
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
	if (tuple->protocol == IPPROTO_FRAGMENT)
		return parse_ipv6_fragment(skb, packet, tuple);
	return parse_ports_at(skb, packet, tuple);
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

/* The later fragments of a datagram go where its first one, which had the ports, has gone. */
static __noinline void remember_first(__be32 identification, const struct tuple *from, __u32 scope,
				      const struct tuple *to, const struct where *where)
{
	struct fragment_key key = { .from = *from, .identification = identification, .scope = scope };
	struct fragment_value value = { .ns = bpf_ktime_get_ns(), .to = *to, .where = *where };

	key.from.port[LOCAL] = key.from.port[REMOTE] = 0;
	bpf_map_update_elem(&fragments, &key, &value, BPF_ANY);
}

/* What the cell has received is said for it while it is suspended. Answers RECEIVED_KNOWN, or 0. */
static __always_inline __u8 note_received(struct __sk_buff *skb, __u32 l4, struct relay_state *state)
{
	__be32 received;

	if (bpf_skb_load_bytes(skb, l4 + offsetof(struct tcphdr, ack_seq), &received, sizeof(received)))
		return 0;
	if (!(state->ended & RECEIVED_KNOWN) || is_before(state->received, bpf_ntohl(received)))
		state->received = bpf_ntohl(received);
	return RECEIVED_KNOWN;
}

/*
 * The flow is in use: nobody here has a socket that would say so. The agent enters the element with a flow (take_on with
 * one that it creates) and takes it out with it.
 */
static __noinline void note_relayed(struct __sk_buff *skb, __u32 l4, const struct tuple *virtual, __u32 fin)
{
	struct relay_state *state = bpf_map_lookup_elem(&relays, virtual);
	__u8 flags, ended;

	if (!state)
		return;
	state->ns = bpf_ktime_get_ns();
	if (virtual->protocol != IPPROTO_TCP || bpf_skb_load_bytes(skb, l4 + TCP_OFFSET_FLAGS, &flags, sizeof(flags)))
		return;
	ended = flags & TCP_FLAG_BITS_SYN ? 0 : state->ended & (FIN_OF_PEER | FIN_OF_CELL | RECEIVED_KNOWN);
	if (flags & TCP_FLAG_BITS_FIN)
		ended |= fin;
	if (flags & TCP_FLAG_BITS_RST)
		ended |= LAST_WAS_RESET;
	else if (fin == FIN_OF_CELL && flags & TCP_FLAG_BITS_ACK)
		ended |= note_received(skb, l4, state);
	if (ended != state->ended)
		state->ended = ended;
}

/* In units of 2^30 ns of the monotonic clock: when a datagram of this flow last passed. Of UDP nobody says goodbye. */
static __always_inline void note_use(__u32 *used, __u8 protocol)
{
	__u32 now;

	if (protocol != IPPROTO_UDP)
		return;
	now = bpf_ktime_get_ns() >> 30;
	if (*used != now)
		*used = now;
}

/* What a flow may begin with: the SYN of a TCP connection, any datagram of UDP. */
static __always_inline bool is_opening(struct __sk_buff *skb, const struct packet *packet, __u8 protocol)
{
	__u8 flags;

	if (protocol == IPPROTO_UDP)
		return true;
	return !bpf_skb_load_bytes(skb, packet->l4 + TCP_OFFSET_FLAGS, &flags, sizeof(flags)) &&
	       (flags & (TCP_FLAG_BITS_SYN | TCP_FLAG_BITS_ACK)) == TCP_FLAG_BITS_SYN;
}

/*
 * Of an opening packet: a connection that would be set up with a process that is about to be frozen. Its SYN is dropped
 * and comes again.
 */
static __always_inline bool is_fenced(const struct packet *packet, const struct tuple *tuple)
{
	struct listener key = { .port = tuple->port[LOCAL], .protocol = tuple->protocol };

	if (tuple->protocol != IPPROTO_TCP)
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
	struct where onward = { .way = ONTO_WIRE };
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
	if (packet->first) {
		onward.ifindex = place->ifindex;
		onward.difference = place->difference.addresses;
		remember_first(packet->identification, wire, FROM_WIRE, &to, &onward);
	}
	count(FORWARDED);
	skb->tc_index = TRANSLATED;
	return bpf_redirect_neigh(place->ifindex, NULL, 0, 0);
}

/*
 * A packet for a process that is being restored: it waits in the queue of a neighbour that is not resolved yet (the
 * agent resolves it once the process runs), bounded by the device's neighbour table settings.
 */
static __always_inline int queue(const struct packet *packet, __u32 cell)
{
	struct bpf_redir_neigh next = {};

	next.nh_family = packet->ipv6 ? AF_INET6 : AF_INET;
	if (packet->ipv6) {
		next.ipv6_nh[0] = bpf_htonl(0xfe800000);
		next.ipv6_nh[3] = bpf_htonl(WAITING_IPV6_LAST);
	} else {
		next.ipv4_nh = bpf_htonl(WAITING_IPV4);
	}
	return bpf_redirect_neigh(cell, &next, sizeof(next), 0);
}

/*
 * A datagram that nobody can take yet: into the room `room`, as it is, with what it is looked up by when it comes out. There
 * it goes on from a copy, which counts for no socket: else a sender would block as soon as what waits fills its buffer, also
 * for what it has to say to others.
 */
struct stamp {
	__u32 ms; /* since the boot: when it began to wait, 0 if it has not */
	__u32 scope;
	__u32 rooms; /* that it has passed */
};

static __always_inline __u32 now_ms(void)
{
	return bpf_ktime_get_ns() / 1000000;
}

static __noinline int wait_in(struct __sk_buff *skb, __u32 room, const struct stamp *stamp)
{
	__u32 ms = stamp->ms ? stamp->ms : now_ms();

	if (stamp->rooms >= ROOMS_PASSED_MAX)
		return drop(ERRORS);
	/* Nobody looks at the time of what does not leave the host, and nobody else's is kept across the queue. */
	if (bpf_skb_set_tstamp(skb, (__u64)stamp->scope << 32 | ms, BPF_SKB_TSTAMP_DELIVERY_MONO))
		return drop(ERRORS);
	skb->tc_index = INTO_ROOM + stamp->rooms;
	return bpf_clone_redirect(skb, room, BPF_F_INGRESS) ? drop(ERRORS) : TC_ACT_STOLEN;
}

/* An unconnected socket has its correspondents in no table of the kernel: they are known by what passes. */
static __always_inline void note_datagram(const struct tuple *virtual)
{
	__u32 port = bpf_ntohs(virtual->port[LOCAL]);
	__u32 one = 1;

	if (virtual->protocol == IPPROTO_UDP && bpf_map_lookup_elem(&watched, &port))
		bpf_map_update_elem(&seen, virtual, &one, BPF_NOEXIST);
}

/* From a place that the cell is not at yet: the host there knows nothing of the connection, or no more (an undone move). */
static __always_inline bool is_reset(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 flags;

	return !bpf_skb_load_bytes(skb, packet->l4 + TCP_OFFSET_FLAGS, &flags, sizeof(flags)) &&
	       (flags & TCP_FLAG_BITS_RST);
}

/* A router takes one from the time to live, so that no packet goes round for ever. False: it was the last. */
static __always_inline bool is_alive(struct __sk_buff *skb, const struct packet *packet)
{
	struct iphdr *ip;
	__u8 hops;

	if (packet->ipv6) {
		__u32 offset = ETH_HLEN + offsetof(struct ipv6hdr, hop_limit);

		if (bpf_skb_load_bytes(skb, offset, &hops, sizeof(hops)) || hops <= 1)
			return false;
		hops--;
		return !bpf_skb_store_bytes(skb, offset, &hops, sizeof(hops), BPF_F_RECOMPUTE_CSUM);
	}
	ip = headers(skb, ETH_HLEN + sizeof(*ip));
	if (!ip)
		return false;
	ip = (void *)ip + ETH_HLEN;
	if (ip->ttl <= 1)
		return false;
	ip->ttl--;
	ip->check = checksum_changed(ip->check, (__u16)~bpf_htons(0x0100));
	return true;
}

/*
 * Up the stack by way of the loopback device, for a source that is an address of this namespace's own, which the kernel
 * believes of no other device.
 */
static __always_inline int deliver(struct __sk_buff *skb, __u16 mark)
{
	__u8 loopback_mac[ETH_ALEN] = {};

	/* Else the kernel would take it for another host's. */
	if (bpf_skb_store_bytes(skb, 0, loopback_mac, sizeof(loopback_mac), 0))
		return drop(ERRORS);
	skb->tc_index = mark;
	return bpf_redirect(LOOPBACK_IFINDEX, BPF_F_INGRESS);
}

/* The rest of the way of a packet that has been translated. */
static __always_inline int go(struct __sk_buff *skb, const struct packet *packet, const struct where *where)
{
	switch (where->way) {
	case TO_STACK:
		return where->loopback && skb->ifindex != LOOPBACK_IFINDEX ? deliver(skb, DELIVERED) : PASS;
	case INTO_CELL:
	case INTO_QUEUE:
		/* For cell_in, which it passes next. */
		if (where->loopback)
			skb->tc_index = DELIVERED;
		return where->way == INTO_QUEUE ? queue(packet, where->ifindex) : bpf_redirect_peer(where->ifindex, 0);
	default:
		skb->tc_index = TRANSLATED;
		return bpf_redirect_neigh(where->ifindex, NULL, 0, 0);
	}
}

/* Which counter says so. */
static __always_inline __u32 counter_of(const struct where *where)
{
	switch (where->way) {
	case INTO_QUEUE:
		return QUEUED_IN;
	case ONTO_WIRE:
		return TRANSLATED_OUT;
	case RELAYED_ON:
	case RELAYED_BACK:
		return RELAYED;
	default:
		return TRANSLATED_IN;
	}
}

/* The way in of a flow to a cell, or where there is none to the host's own sockets, or on to a peer without an agent. */
static __always_inline struct where way_in_of(const struct ingress_value *flow, __u32 cell, bool queued)
{
	struct where where = { .ifindex = cell, .difference = flow->difference.addresses };

	where.loopback = flow->via == LOOPBACK_IFINDEX;
	if (flow->via && !where.loopback) {
		where.ifindex = flow->via;
		where.way = RELAYED_BACK;
	} else {
		where.way = queued ? INTO_QUEUE : cell ? INTO_CELL : TO_STACK;
	}
	return where;
}

/* What nobody has told us of: left alone on the wire; but nothing unknown gets from a cell into its host. */
static __always_inline int unknown(__u32 scope)
{
	return scope && scope != FROM_WIRE ? drop(DROPPED_UNKNOWN) : PASS;
}

/* Any fragment but the first: addresses only, for ports and checksum are in the first. `out` as in `leave`. */
static __noinline int follow_first(struct __sk_buff *skb, __be32 identification, const struct tuple *tuple,
				   __u32 scope, const struct stamp *out)
{
	struct fragment_key key = { .from = *tuple, .identification = identification, .scope = scope };
	struct packet packet = { .ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6) };
	struct fragment_value *first = bpf_map_lookup_elem(&fragments, &key);
	__u32 source = scope == FROM_WIRE ? REMOTE : LOCAL;
	struct where where;

	if (!first || bpf_ktime_get_ns() - first->ns > FRAGMENTS_NS_MAX) {
		count(PASSED_FRAGMENTS);
		return unknown(scope);
	}
	where = first->where;
	if (where.way == INTO_A_ROOM) {
		struct stamp stamp = { .scope = scope == FROM_WIRE ? RELAY : scope };

		/* Its first one has been dropped there. */
		if (out && where.ifindex == skb->ifindex)
			return drop(PASSED_FRAGMENTS);
		/* From the wire it is to be relayed. */
		if (scope == FROM_WIRE && !is_alive(skb, &packet))
			return drop(ERRORS);
		return wait_in(skb, where.ifindex, out ? out : &stamp);
	}
	if (where.way == RELAYED_ON)
		source = LOCAL;
	if (where.way >= RELAYED_ON && !is_alive(skb, &packet))
		return drop(ERRORS);
	if (packet.ipv6 ? !write_ipv6(skb, source, &first->to) :
			   !write_ipv4(skb, source, &first->to, where.difference))
		return drop(ERRORS);
	/* No checksum in this fragment makes up for it, where the device has summed the fragment up. */
	if (packet.ipv6)
		bpf_csum_update(skb, where.difference);
	count(counter_of(&where));
	return go(skb, &packet, &where);
}

/*
 * An ICMP error quotes the packet that it is about. Translated, it quotes what the one that it is for has sent; so path
 * MTU discovery works across a translated flow, and nobody waits for what is unreachable.
 */
static __always_inline bool is_error(struct __sk_buff *skb, const struct packet *packet, const struct tuple *tuple)
{
	__u8 type;

	if (tuple->protocol != (packet->ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return false;
	if (bpf_skb_load_bytes(skb, packet->l4, &type, sizeof(type)))
		return false;
	if (packet->ipv6)
		return type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB;
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
}

static __always_inline bool is_same_address(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

/* `quote` and `tuple` are zeroed. True: TCP or UDP, with its ports, and sent by the one that the error is for. */
static __always_inline bool parse_quote(struct __sk_buff *skb, const struct packet *error, const struct tuple *outer,
					struct packet *quote, struct tuple *tuple)
{
	__u32 ip = error->l4 + ICMP_BYTES;
	struct iphdr v4;
	__u8 next;

	quote->source = !error->source;
	quote->ipv6 = error->ipv6;
	quote->l4 = ip;
	if (error->ipv6) {
		if (bpf_skb_load_bytes(skb, ip + offsetof(struct ipv6hdr, saddr), tuple->address[quote->source],
				       sizeof(struct in6_addr)) ||
		    bpf_skb_load_bytes(skb, ip + offsetof(struct ipv6hdr, daddr), tuple->address[!quote->source],
				       sizeof(struct in6_addr)) ||
		    bpf_skb_load_bytes(skb, ip + offsetof(struct ipv6hdr, nexthdr), &next, sizeof(next)))
			return false;
		tuple->protocol = next;
		quote->l4 += sizeof(struct ipv6hdr);
		if (parse_extensions(skb, quote, tuple) != WHOLE)
			return false;
	} else {
		if (bpf_skb_load_bytes(skb, ip, &v4, sizeof(v4)))
			return false;
		parse_ipv4_header(&v4, quote, tuple);
		if (v4.frag_off & bpf_htons(IPV4_OFFSET_BITS) || parse_ports_at(skb, quote, tuple) != WHOLE)
			return false;
	}
	return is_same_address(tuple->address[quote->source], outer->address[quote->source]);
}

/* One's complement sums of 16-bit words, as in struct difference. */
static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u16 checksum_of(__s64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline bool change_sum_at(struct __sk_buff *skb, __u32 offset, __u16 difference)
{
	__sum16 sum;

	if (bpf_skb_load_bytes(skb, offset, &sum, sizeof(sum)))
		return false;
	sum = checksum_changed(sum, difference);
	return !bpf_skb_store_bytes(skb, offset, &sum, sizeof(sum), 0);
}

static __always_inline bool write_quote(struct __sk_buff *skb, __u32 ip, const struct packet *quote,
					const struct tuple *to, __u16 difference)
{
	__be16 ports[2] = { to->port[quote->source], to->port[!quote->source] };
	__u32 bytes = quote->ipv6 ? sizeof(struct in6_addr) : sizeof(__be32);
	__u32 at = ip + (quote->ipv6 ? offsetof(struct ipv6hdr, saddr) : offsetof(struct iphdr, saddr));
	__u32 word = quote->ipv6 ? 0 : 3;

	if (bpf_skb_store_bytes(skb, quote->l4, ports, sizeof(ports), 0) ||
	    bpf_skb_store_bytes(skb, at, &to->address[quote->source][word], bytes, 0) ||
	    bpf_skb_store_bytes(skb, at + bytes, &to->address[!quote->source][word], bytes, 0))
		return false;
	return quote->ipv6 || change_sum_at(skb, ip + offsetof(struct iphdr, check), difference);
}

/* The quoted packet's own checksum, where it is quoted as well; answers what that adds to the sum of the message. */
static __always_inline __u16 change_quoted_checksum(struct __sk_buff *skb, const struct packet *quote, bool udp,
						    __u16 difference)
{
	__u32 offset = quote->l4 + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	__sum16 sum;

	if (bpf_skb_load_bytes(skb, offset, &sum, sizeof(sum)) || (udp && !sum))
		return 0;
	sum = checksum_changed(sum, difference);
	if (udp && !sum)
		sum = 0xffff;
	if (bpf_skb_store_bytes(skb, offset, &sum, sizeof(sum), 0))
		return 0;
	return ~difference;
}

/* Answers what that adds to a checksum. */
static __always_inline __u16 change_address(__be32 *address, const __be32 *from, const __be32 *to)
{
	__u16 difference;

	if (!is_same_address(address, from))
		return 0;
	difference = folded(bpf_csum_diff(address, sizeof(struct in6_addr), (__be32 *)to, sizeof(struct in6_addr), 0));
	__builtin_memcpy(address, to, sizeof(struct in6_addr));
	return difference;
}

/*
 * Rewrites the packet that the error quotes, the error's own addresses where they are those of the flow (a router's stays
 * as it is), and its checksum. Nobody leaves the checksum of an ICMP message to a device. What a device may have summed
 * up on arrival stays the same: each change is made up for by one in a checksum.
 */
static __always_inline bool rewrite_error(struct __sk_buff *skb, const struct packet *error, struct tuple *outer,
					  const struct packet *quote, const struct tuple *from, const struct tuple *to,
					  struct difference difference)
{
	__u32 change = difference.ports;
	__u16 own = folded(change_address(outer->address[LOCAL], from->address[LOCAL], to->address[LOCAL]) +
			   change_address(outer->address[REMOTE], from->address[REMOTE], to->address[REMOTE]));

	if (!write_quote(skb, error->l4 + ICMP_BYTES, quote, to, difference.addresses))
		return false;
	change += change_quoted_checksum(skb, quote, from->protocol == IPPROTO_UDP,
					 folded(difference.addresses + difference.ports));
	/* IPv4's quoted header has a checksum of its own, and ICMP's does not cover the addresses outside. */
	if (error->ipv6)
		change += difference.addresses + own;
	return change_sum_at(skb, error->l4 + ICMP_CHECKSUM, folded(change)) &&
	       (error->ipv6 ? write_ipv6(skb, error->source, outer) : write_ipv4(skb, error->source, outer, own));
}

/* From the wire, about what we have sent. What comes while the process is not running comes again with its next packet. */
static __noinline int error_from_wire(struct __sk_buff *skb, __u32 l4, struct tuple *outer)
{
	struct packet error = { .source = REMOTE, .l4 = l4, .ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6) };
	struct ingress_value *flow;
	struct packet quote = {};
	struct tuple wire = {};
	struct where inward;
	struct side *side;
	__u32 cell = 0;

	if (!parse_quote(skb, &error, outer, &quote, &wire))
		return PASS;
	flow = bpf_map_lookup_elem(&ingress, &wire);
	if (!flow || flow->slot == FROM_RELAYED)
		return PASS;
	if (flow->local_side) {
		side = bpf_map_lookup_elem(&sides, &flow->local_side);
		if (!side)
			return drop(ERRORS);
		if (side->state >= FENCED)
			return drop(DROPPED_FENCED);
		cell = side->ifindex;
	}
	if (flow->remote_side) {
		side = bpf_map_lookup_elem(&sides, &flow->remote_side);
		if (!side)
			return drop(ERRORS);
		if (side->state == FENCED)
			return drop(DROPPED_FENCED);
		/* Of the way to where the cell is not, or not yet. */
		if (flow->slot != side->active)
			return drop(DROPPED_STALE);
	}
	inward = way_in_of(flow, cell, false);
	if (inward.way == RELAYED_BACK && !is_alive(skb, &error))
		return drop(ERRORS);
	if (!rewrite_error(skb, &error, outer, &quote, &wire, &flow->virtual, flow->difference))
		return drop(ERRORS);
	count(TRANSLATED_ICMP);
	return go(skb, &error, &inward);
}

/* Where datagrams of a flow wait, or 0. */
static __always_inline __u32 room_of(const struct egress_value *flow, __u8 protocol)
{
	struct side *side;

	if (protocol != IPPROTO_UDP)
		return 0;
	side = flow->local_side ? bpf_map_lookup_elem(&sides, &flow->local_side) : NULL;
	if (side && side->room)
		return side->room;
	side = flow->remote_side ? bpf_map_lookup_elem(&sides, &flow->remote_side) : NULL;
	return side ? side->room : 0;
}

/* Where what is said on a flow goes now; or NULL, and it is counted as dropped: `stand_in` may answer it. */
static __always_inline struct wire_slot *slot_of(struct egress_value *flow)
{
	struct side *side;
	__u32 active = 0;
	__u32 why = ERRORS;

	if (flow->local_side) {
		side = bpf_map_lookup_elem(&sides, &flow->local_side);
		if (!side)
			goto dropped;
		why = DROPPED_FENCED;
		if (side->state >= FENCED && side->state != LEAVING)
			goto dropped;
	}
	if (flow->remote_side) {
		why = ERRORS;
		side = bpf_map_lookup_elem(&sides, &flow->remote_side);
		if (!side)
			goto dropped;
		why = side->state == FENCED ? DROPPED_FENCED : DROPPED_HELD;
		if (side->state == FENCED || side->state == HELD)
			goto dropped;
		active = side->active & 1;
	}
	why = ERRORS;
	if (flow->slots[active].port)
		return &flow->slots[active];
dropped:
	count(why);
	return NULL;
}

static __always_inline void set_wire(struct tuple *wire, const struct egress_value *flow, const struct wire_slot *slot)
{
	__builtin_memcpy(wire->address[LOCAL], flow->local_address, sizeof(flow->local_address));
	__builtin_memcpy(wire->address[REMOTE], slot->address, sizeof(slot->address));
	wire->port[LOCAL] = flow->local_port;
	wire->port[REMOTE] = slot->port;
}

/* Nobody answers a pure acknowledgement, or answers would go round for ever. A probe asks whether the other end is there. */
enum asks { NOTHING, PROBE, SEGMENT };

/* The checksum is right whether it is complete or only the addresses are in it so far, for a device to complete. */
static __always_inline bool write_answer(struct __sk_buff *skb, const void *answer, __u32 l4, __u32 pseudo, __u32 sum)
{
	__u32 check = l4 + offsetof(struct tcphdr, check);

	return !bpf_skb_change_tail(skb, l4 + sizeof(struct tcphdr), 0) &&
	       !bpf_skb_store_bytes(skb, ETH_HLEN, answer, l4 - ETH_HLEN + sizeof(struct tcphdr), 0) &&
	       /* It has `pseudo` in it so far: where it is complete, that becomes the complement of pseudo + sum. */
	       !bpf_l4_csum_replace(skb, check, 0, 2 * pseudo + sum, 0);
}

static __always_inline void fill_answer(struct tcphdr *tcp, const struct tuple *virtual, const struct last_word *said)
{
	tcp->source = virtual->port[REMOTE];
	tcp->dest = virtual->port[LOCAL];
	tcp->seq = bpf_htonl(said->next);
	tcp->ack_seq = bpf_htonl(said->received);
	tcp->doff = sizeof(*tcp) / 4;
	tcp->ack = 1;
}

static __always_inline bool answer_over_ipv4(struct __sk_buff *skb, const struct tuple *virtual, struct answer *answer)
{
	struct iphdr *ip = &answer->v4.ip;
	struct tcphdr *tcp = &answer->v4.tcp;
	__u32 pseudo, sum;

	fill_answer(tcp, virtual, &answer->said);
	sum = folded(bpf_csum_diff(NULL, 0, (__be32 *)tcp, sizeof(*tcp), 0));
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tot_len = bpf_htons(sizeof(answer->v4));
	ip->frag_off = bpf_htons(IPV4_DONT_FRAGMENT);
	ip->ttl = ANSWER_HOPS;
	ip->protocol = IPPROTO_TCP;
	ip->saddr = virtual->address[REMOTE][3];
	ip->daddr = virtual->address[LOCAL][3];
	ip->check = checksum_of(bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0));
	pseudo = folded(bpf_csum_diff(NULL, 0, &ip->saddr, 2 * sizeof(ip->saddr), 0));
	tcp->check = pseudo = folded(pseudo + bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(*tcp)));
	return write_answer(skb, &answer->v4, ETH_HLEN + sizeof(*ip), pseudo, sum);
}

static __always_inline bool answer_over_ipv6(struct __sk_buff *skb, const struct tuple *virtual, struct answer *answer)
{
	struct ipv6hdr *ip = &answer->v6.ip;
	struct tcphdr *tcp = &answer->v6.tcp;
	__u32 pseudo, sum;

	fill_answer(tcp, virtual, &answer->said);
	sum = folded(bpf_csum_diff(NULL, 0, (__be32 *)tcp, sizeof(*tcp), 0));
	ip->version = 6;
	ip->payload_len = bpf_htons(sizeof(*tcp));
	ip->nexthdr = IPPROTO_TCP;
	ip->hop_limit = ANSWER_HOPS;
	__builtin_memcpy(&ip->saddr, virtual->address[REMOTE], sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, virtual->address[LOCAL], sizeof(ip->daddr));
	pseudo = folded(bpf_csum_diff(NULL, 0, (__be32 *)&ip->saddr, 2 * sizeof(ip->saddr), 0));
	tcp->check = pseudo = folded(pseudo + bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(*tcp)));
	return write_answer(skb, &answer->v6, ETH_HLEN + sizeof(*ip), pseudo, sum);
}

/*
 * What the socket itself has of the other end: nothing else has to be remembered. The kernel has it locked while it sends,
 * and a packet that has crossed a veth still belongs to it.
 */
static __noinline bool ask_socket(struct __sk_buff *skb, struct last_word *said)
{
	struct bpf_sock *sk = skb->sk;
	struct bpf_tcp_sock *tcp;
	__u32 state;

	if (!sk)
		return false;
	/* Neither a connection that is being set up nor one that is over. */
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return false;
	state = sk->state;
	said->closing = state == BPF_TCP_FIN_WAIT1 || state == BPF_TCP_LAST_ACK || state == BPF_TCP_CLOSING;
	if (!said->closing && state != BPF_TCP_ESTABLISHED && state != BPF_TCP_FIN_WAIT2 && state != BPF_TCP_CLOSE_WAIT)
		return false;
	tcp = bpf_tcp_sock(sk);
	if (!tcp)
		return false;
	said->next = tcp->rcv_nxt;
	said->received = tcp->snd_una;
	said->unrepeated = tcp->packets_out && !tcp->icsk_retransmits;
	return true;
}

static __always_inline bool ask_relay(const struct tuple *virtual, struct answer *answer)
{
	struct relay_state *state = bpf_map_lookup_elem(&relays, virtual);

	if (!state || !(state->ended & RECEIVED_KNOWN))
		return false;
	answer->said.next = bpf_ntohl(answer->asked.ack_seq);
	answer->said.received = state->received;
	return true;
}

/* Bytes behind the TCP header; what is too long for its length field has some. */
static __always_inline bool has_data(struct __sk_buff *skb, const struct tcphdr *tcp)
{
	bool ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	__u32 at = ETH_HLEN + (ipv6 ? offsetof(struct ipv6hdr, payload_len) : offsetof(struct iphdr, tot_len));
	__be16 length;

	if (bpf_skb_load_bytes(skb, at, &length, sizeof(length)))
		return false;
	return !length || bpf_ntohs(length) > tcp->doff * 4 + (ipv6 ? 0 : sizeof(struct iphdr));
}

static __always_inline enum asks asks_what(struct __sk_buff *skb, const struct tcphdr *tcp, __u32 received)
{
	if (tcp->syn || tcp->rst || !tcp->ack)
		return NOTHING;
	if (tcp->fin || has_data(skb, tcp))
		return SEGMENT;
	/* Keepalive and window probes have a sequence number that was acknowledged long ago. */
	return is_before(bpf_ntohl(tcp->seq), received) ? PROBE : NOTHING;
}

/* An answer makes a socket that repeats what was lost do so at once: that is not answered again, or it would never end. */
static __noinline bool is_just_answered(struct __sk_buff *skb)
{
	__u64 cookie = bpf_get_socket_cookie(skb), now = bpf_ktime_get_ns();
	__u64 *before = bpf_map_lookup_elem(&answered, &cookie);

	if (before && now - *before < ANSWER_NS_MIN)
		return true;
	bpf_map_update_elem(&answered, &cookie, &now, BPF_ANY);
	return false;
}

static __always_inline bool turn_round(struct __sk_buff *skb)
{
	__u8 macs[2 * ETH_ALEN];

	return !bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) &&
	       !bpf_skb_store_bytes(skb, 0, macs + ETH_ALEN, ETH_ALEN, 0) &&
	       !bpf_skb_store_bytes(skb, ETH_ALEN, macs, ETH_ALEN, 0);
}

/*
 * To a socket of this namespace. A segment gets lost on the host itself, and TCP is told so (the verdict is "dropped", the
 * answer a copy): so nothing new counts as sent, and what is repeated is repeated once more as soon as the cell is back. A
 * probe has arrived, so that it is not said again twice a second; but a socket that has been closed may be given up once
 * its probes have become rare, so those do not.
 */
static __always_inline int answer_socket(struct __sk_buff *skb, __u16 mark, bool arrived)
{
	if (!turn_round(skb))
		return drop(ERRORS);
	skb->tc_index = mark;
	if (arrived)
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS) ? drop(ERRORS) : TC_ACT_SHOT;
}

static __noinline bool write_answer_of(struct __sk_buff *skb, const struct tuple *virtual, struct answer *answer)
{
	return skb->protocol == bpf_htons(ETH_P_IPV6) ? answer_over_ipv6(skb, virtual, answer) :
							answer_over_ipv4(skb, virtual, answer);
}

static __always_inline int send_answer(struct __sk_buff *skb, __u32 scope, __u32 via, bool at_socket, bool arrived)
{
	count(ANSWERED);
	/* For from_wire, or for cell_in. */
	if (at_socket)
		return answer_socket(skb, !scope || via == LOOPBACK_IFINDEX ? DELIVERED : 0, arrived);
	if (scope == RELAY) {
		skb->tc_index = TRANSLATED;
		return bpf_redirect_neigh(via, NULL, 0, 0);
	}
	/* For cell_in. */
	if (via == LOOPBACK_IFINDEX)
		skb->tc_index = DELIVERED;
	return bpf_redirect_peer(scope, 0);
}

static __always_inline struct answer *blank_answer(void)
{
	__u32 zero = 0;
	struct answer *answer = bpf_map_lookup_elem(&answers, &zero);

	if (answer)
		__builtin_memset(answer, 0, sizeof(*answer));
	return answer;
}

/*
 * For a remote cell that is suspended: what its end of a connection would say now, which is that it has no room. So the
 * socket here asks again and again, and never gives up; no byte is acknowledged that the cell has not received.
 * `at_socket`: this is the namespace of the socket, and what is dropped here TCP hears of.
 */
static __noinline int stand_in(struct __sk_buff *skb, const struct egress_key *key, const struct egress_value *flow,
			       __u32 l4, bool at_socket)
{
	__u32 plain = ETH_HLEN + (skb->protocol == bpf_htons(ETH_P_IPV6) ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	struct side *side = bpf_map_lookup_elem(&sides, &flow->remote_side);
	struct answer *answer;
	__u32 asks;

	if (!side || side->state != HELD || key->virtual.protocol != IPPROTO_TCP)
		return TC_ACT_SHOT;
	answer = blank_answer();
	/* IPv4 options and IPv6 extension headers: none that a TCP socket sends by itself. */
	if (!answer || l4 != plain || bpf_skb_load_bytes(skb, l4, &answer->asked, sizeof(answer->asked)))
		return TC_ACT_SHOT;
	if (key->scope == RELAY ? !ask_relay(&key->virtual, answer) : !ask_socket(skb, &answer->said))
		return TC_ACT_SHOT;
	asks = asks_what(skb, &answer->asked, answer->said.received);
	/* TCP does not take it for a sign of congestion then. */
	if (asks == NOTHING)
		return at_socket ? TC_ACT_STOLEN : TC_ACT_SHOT;
	/* With a closed window TCP does not count what it repeats, and believes nobody who has it take its timer back: wake.bpf.c. */
	if (asks == SEGMENT && at_socket && (answer->said.unrepeated || is_just_answered(skb)))
		return TC_ACT_SHOT;
	if (!write_answer_of(skb, &key->virtual, answer))
		return TC_ACT_SHOT;
	return send_answer(skb, key->scope, flow->via, at_socket, asks == PROBE && !answer->said.closing);
}

/* A TCP segment with at most a few bytes of data: the fast path of those with more has nothing to do with `announce`. */
static __always_inline bool is_short(struct __sk_buff *skb, const struct packet *packet, __u8 protocol)
{
	return protocol == IPPROTO_TCP && skb->len <= packet->l4 + TCP_HEADER_BYTES_MAX;
}

/*
 * The first that a socket says after it has been restored is a probe. It makes the peer say what it has received, but what
 * it says itself, above all that there is room again, is not believed: its sequence number is an old one. So the same
 * is said once more, with the right one; for a peer whose window was closed meanwhile nothing else would open it.
 */
static __noinline void announce(struct __sk_buff *skb, const struct egress_value *flow, __u32 l4, __u32 scope)
{
	struct side *side = bpf_map_lookup_elem(&sides, &flow->local_side);
	__u32 at = l4 + offsetof(struct tcphdr, seq), check = l4 + offsetof(struct tcphdr, check);
	struct bpf_sock *sk = skb->sk;
	struct bpf_tcp_sock *socket;
	struct tcphdr tcp;
	__be32 next;

	if (!side || !side->resumed || !sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->state == BPF_TCP_CLOSE)
		return;
	socket = bpf_tcp_sock(sk);
	if (!socket || bpf_skb_load_bytes(skb, l4, &tcp, sizeof(tcp)))
		return;
	if (asks_what(skb, &tcp, socket->snd_una) != PROBE)
		return;
	next = bpf_htonl(socket->snd_nxt);
	if (bpf_skb_store_bytes(skb, at, &next, sizeof(next), 0) ||
	    bpf_l4_csum_replace(skb, check, tcp.seq, next, sizeof(next)))
		return;
	/* The copy comes by here as well, and belongs to no socket. */
	bpf_clone_redirect(skb, skb->ifindex, scope ? BPF_F_INGRESS : 0);
	bpf_skb_store_bytes(skb, at, &tcp.seq, sizeof(tcp.seq), 0);
	bpf_l4_csum_replace(skb, check, next, tcp.seq, sizeof(next));
}

/* Creating a flow: NO_RULE says that there is none for it, REFUSED that the packet is to be dropped (it is counted). */
enum creation { NO_RULE, REFUSED, EXISTS };

static __always_inline enum creation refuse(__u32 counter)
{
	count(counter);
	return REFUSED;
}

static __always_inline struct draft *blank_draft(void)
{
	__u32 zero = 0;
	struct draft *draft = bpf_map_lookup_elem(&drafts, &zero);

	if (draft) {
		__builtin_memset(draft, 0, sizeof(*draft));
		draft->flags = BPF_NOEXIST;
	}
	return draft;
}

static __always_inline struct place place_of(const struct tuple *tuple, __u32 end)
{
	struct place place = { .port = tuple->port[end], .protocol = tuple->protocol };

	__builtin_memcpy(place.address, tuple->address[end], sizeof(place.address));
	return place;
}

static __always_inline bool is_same_tuple(const struct tuple *a, const struct tuple *b)
{
	return is_same_address(a->address[LOCAL], b->address[LOCAL]) &&
	       is_same_address(a->address[REMOTE], b->address[REMOTE]) && a->port[LOCAL] == b->port[LOCAL] &&
	       a->port[REMOTE] == b->port[REMOTE] && a->protocol == b->protocol;
}

/* As `difference` of layout.ts: modulo 0xffff is what folding the carries in comes to, and zero has one form only. */
static __always_inline struct difference difference_of(const struct tuple *from, const struct tuple *to)
{
	struct difference difference;

	difference.addresses = (__u32)bpf_csum_diff((__be32 *)from->address, sizeof(from->address),
						    (__be32 *)to->address, sizeof(to->address), 0) % 0xffff;
	difference.ports = (__u32)bpf_csum_diff((__be32 *)from->port, sizeof(from->port), (__be32 *)to->port,
						sizeof(to->port), 0) % 0xffff;
	return difference;
}

/* From the virtual tuple, the wire tuple, the sides and the slot of a draft: all the rest. */
static __always_inline void complete(struct draft *draft, const struct rule *rule, __u32 ifindex)
{
	struct ingress_value *way_in = &draft->way_in;
	struct egress_value *way_out = &draft->way_out;
	struct wire_slot *slot = &way_out->slots[way_in->slot & 1];

	way_in->virtual = draft->key.virtual;
	way_in->difference = difference_of(&draft->wire, &draft->key.virtual);
	way_out->local_side = way_in->local_side;
	way_out->remote_side = way_in->remote_side;
	__builtin_memcpy(way_out->local_address, draft->wire.address[LOCAL], sizeof(way_out->local_address));
	way_out->local_port = draft->wire.port[LOCAL];
	way_out->rule = rule->number;
	__builtin_memcpy(slot->address, draft->wire.address[REMOTE], sizeof(slot->address));
	slot->port = draft->wire.port[REMOTE];
	slot->identity = is_same_tuple(&draft->key.virtual, &draft->wire);
	slot->ifindex = ifindex;
	slot->difference = difference_of(&draft->key.virtual, &draft->wire);
}

static __always_inline bool is_spent(const struct rule *rule)
{
	__u32 number = rule->number;
	__u32 *created = bpf_map_lookup_elem(&spent, &number);

	return !created || (__s32)(rule->limit - *created) <= 0;
}

static __always_inline void spend(const struct rule *rule)
{
	__u32 number = rule->number;
	__u32 *created = bpf_map_lookup_elem(&spent, &number);

	if (created)
		__sync_fetch_and_add(created, 1);
}

/* The way out of a draft's virtual tuple leads to the draft's wire tuple. */
static __always_inline bool is_same_way(const struct draft *draft, const struct egress_value *way_out)
{
	const struct wire_slot *slot = &way_out->slots[draft->way_in.slot & 1];

	return is_same_address(way_out->local_address, draft->wire.address[LOCAL]) &&
	       is_same_address(slot->address, draft->wire.address[REMOTE]) &&
	       way_out->local_port == draft->wire.port[LOCAL] && slot->port == draft->wire.port[REMOTE];
}

/*
 * Enters a draft, the way in first. Another processor may be entering the same flow: both drafts are the same then, each
 * element is made by one of the two, and both go on. An element of another flow stays, and the draft is dropped.
 */
static __noinline int enter(struct draft *draft, const struct rule *rule, __u32 ifindex)
{
	struct ingress_value *way_in;
	struct egress_value *way_out;
	bool made;

	complete(draft, rule, ifindex);
	made = !bpf_map_update_elem(&ingress, &draft->wire, &draft->way_in, BPF_NOEXIST);
	if (!made) {
		way_in = bpf_map_lookup_elem(&ingress, &draft->wire);
		if (!way_in)
			return refuse(DROPPED_FULL);
		if (!is_same_tuple(&way_in->virtual, &draft->key.virtual))
			return refuse(DROPPED_CLASH);
	}
	if (!bpf_map_update_elem(&egress, &draft->key, &draft->way_out, draft->flags)) {
		if (draft->flags == BPF_NOEXIST)
			spend(rule);
		count(CREATED);
		return EXISTS;
	}
	way_out = bpf_map_lookup_elem(&egress, &draft->key);
	if (way_out && is_same_way(draft, way_out))
		return EXISTS;
	if (made)
		bpf_map_delete_elem(&ingress, &draft->wire);
	return refuse(way_out ? DROPPED_CLASH : DROPPED_FULL);
}

/* A SYN or a datagram from anyone to an endpoint of ours that a cell is reached at. */
static __always_inline enum creation admit(struct __sk_buff *skb, const struct tuple *wire)
{
	struct place place = place_of(wire, LOCAL);
	struct rule *rule = bpf_map_lookup_elem(&accepts, &place);
	struct draft *draft;
	struct side *side;

	if (!rule)
		return NO_RULE;
	side = bpf_map_lookup_elem(&sides, &rule->side);
	if (rule->side && (!side || side->state == FENCED || side->state >= LEAVING))
		return refuse(DROPPED_SYN);
	if (is_spent(rule))
		return refuse(DROPPED_FULL);
	draft = blank_draft();
	if (!draft)
		return refuse(ERRORS);
	draft->wire = draft->key.virtual = *wire;
	__builtin_memcpy(draft->key.virtual.address[LOCAL], rule->address, sizeof(rule->address));
	draft->key.virtual.port[LOCAL] = rule->port;
	draft->key.scope = rule->ifindex;
	draft->way_in.local_side = rule->side;
	/* From the host that the cell has come from, whose address it has: of a socket there, or relayed. */
	if (is_same_address(wire->address[REMOTE], rule->address))
		draft->way_in.via = draft->way_out.via = LOOPBACK_IFINDEX;
	return enter(draft, rule, skb->ifindex);
}

/*
 * The label of a virtual endpoint, drawn now if it has none; 0 if none is free. All flows of an endpoint share one, and
 * one that has been given back comes up again last.
 */
static __noinline __u32 label_of(const struct label_owner *owner, const struct rule *rule)
{
	struct label *known = bpf_map_lookup_elem(&labels, owner);
	struct label label = { .protocol = owner->local.protocol };
	__u32 zero = 0, *tries;
	int i;

	if (known)
		return known->port;
	tries = bpf_map_lookup_elem(&spent, &zero);
	if (!tries || !rule->labels)
		return 0;
	for (i = 0; i < LABEL_TRIES_MAX; i++) {
		label.port = bpf_htons(rule->label_first + __sync_fetch_and_add(tries, 1) % rule->labels);
		if (bpf_map_update_elem(&drawn, &label, owner, BPF_NOEXIST))
			continue;
		if (!bpf_map_update_elem(&labels, owner, &label, BPF_NOEXIST))
			return label.port;
		/* Another processor was faster, or the map is full. */
		bpf_map_delete_elem(&drawn, &label);
		known = bpf_map_lookup_elem(&labels, owner);
		return known ? known->port : 0;
	}
	return 0;
}

static __always_inline bool is_ipv4(const __be32 *address)
{
	return !address[0] && !address[1] && address[2] == bpf_htonl(0xffff);
}

/* Multicast, broadcast and link-local addresses mean nothing, or something else, where the cell is now. */
static __always_inline bool is_far(const __be32 *address)
{
	const __u8 *bytes = (const __u8 *)address;

	if (is_ipv4(address))
		return bytes[12] < 224 && !(bytes[12] == 169 && bytes[13] == 254);
	return bytes[0] != 0xff && !(bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80);
}

/* As whom, and by which device, a cell's draft goes out. */
static __always_inline struct rule *way_out_of(const struct draft *draft)
{
	struct way_key key = { .bits = 8 * (sizeof(key.scope) + sizeof(key.address)), .scope = draft->key.scope };

	struct rule *way;

	__builtin_memcpy(key.address, draft->wire.address[REMOTE], sizeof(key.address));
	if (!is_far(key.address))
		return NULL;
	way = bpf_map_lookup_elem(&ways_out, &key);
	/* ::/0 has the IPv4 addresses in it. */
	return way && is_ipv4(way->address) == is_ipv4(key.address) ? way : NULL;
}

/* The local half of a cell's draft: an address of this host, and a label. */
static __always_inline enum creation draft_local(struct draft *draft, const struct rule *way)
{
	struct side *side = bpf_map_lookup_elem(&sides, &way->side);

	/* What is said while a process is being frozen may not open anything: it says it again where it goes on. */
	if (way->side && (!side || side->state >= FENCED))
		return refuse(DROPPED_FENCED);
	draft->owner.local = place_of(&draft->key.virtual, LOCAL);
	draft->owner.scope = draft->key.scope;
	draft->wire.port[LOCAL] = label_of(&draft->owner, way);
	if (!draft->wire.port[LOCAL])
		return refuse(DROPPED_LABELS);
	__builtin_memcpy(draft->wire.address[LOCAL], way->address, sizeof(way->address));
	draft->way_in.local_side = way->side;
	return EXISTS;
}

/* The remote half of a draft whose remote end is a cell that has moved. */
static __always_inline enum creation draft_remote(struct draft *draft, const struct rule *follow)
{
	struct side *side = bpf_map_lookup_elem(&sides, &follow->side);

	if (follow->side && (!side || side->state == FENCED))
		return refuse(DROPPED_FENCED);
	if (side && side->state == HELD)
		return refuse(DROPPED_HELD);
	__builtin_memcpy(draft->wire.address[REMOTE], follow->address, sizeof(follow->address));
	draft->wire.port[REMOTE] = follow->port;
	draft->way_in.remote_side = follow->side;
	draft->way_in.slot = side ? side->active & 1 : 0;
	return EXISTS;
}

/* The remote cell of a flow that was created here has moved meanwhile, and the agent did not know of the flow. */
static __always_inline bool is_left_behind(const struct egress_value *flow)
{
	struct side *side;

	if (!flow->rule || !flow->remote_side)
		return false;
	side = bpf_map_lookup_elem(&sides, &flow->remote_side);
	return side && !flow->slots[side->active & 1].port;
}

/*
 * A SYN or a datagram of a socket here: to a cell that has moved, or of a cell. Scope and virtual tuple are in `key`;
 * `found` is the flow that leads nowhere, if there is one. What it leaves behind in `ingress` the agent clears away.
 */
static __always_inline enum creation depart(struct __sk_buff *skb, const struct egress_key *key,
					    const struct egress_value *found)
{
	struct place place = place_of(&key->virtual, REMOTE);
	struct rule *follow = bpf_map_lookup_elem(&follows, &place);
	struct rule *way = NULL, *rule;
	struct draft *draft;

	if (!follow && !key->scope)
		return NO_RULE;
	draft = blank_draft();
	if (!draft)
		return refuse(ERRORS);
	draft->key = *key;
	draft->wire = key->virtual;
	if (found)
		draft->flags = BPF_EXIST;
	if (follow && draft_remote(draft, follow) != EXISTS)
		return REFUSED;
	if (key->scope)
		way = way_out_of(draft);
	if (key->scope && !way)
		return NO_RULE;
	rule = way ? way : follow;
	if (!rule)
		return NO_RULE;
	if (!found && is_spent(rule))
		return refuse(DROPPED_FULL);
	if (way && draft_local(draft, way) != EXISTS)
		return REFUSED;
	/* To an address of this host's own, where the cell was. */
	if (skb->ifindex == LOOPBACK_IFINDEX && !key->scope)
		draft->way_in.via = draft->way_out.via = LOOPBACK_IFINDEX;
	return enter(draft, rule, follow ? follow->ifindex : rule->ifindex);
}

/* New flows to this endpoint of a cell that is elsewhere are relayed, unless they are of this host's own sockets. */
static __always_inline bool is_relayed(struct __sk_buff *skb, const struct tuple *from)
{
	struct place place = place_of(from, LOCAL);
	struct rule *follow = bpf_map_lookup_elem(&follows, &place);

	return follow && follow->labels && skb->ifindex != LOOPBACK_IFINDEX;
}

/*
 * A SYN or a datagram of a peer without an agent to a cell that has moved: from here on relayed. `from` is the peer's own
 * tuple; `key` and `found` as in `depart`.
 */
static __always_inline enum creation take_on(struct __sk_buff *skb, const struct egress_key *key,
					     const struct tuple *from, const struct egress_value *found)
{
	struct place place = place_of(from, LOCAL);
	struct rule *follow = bpf_map_lookup_elem(&follows, &place);
	struct relay_state began = {};
	struct draft *draft;
	bool made;

	if (!follow || !follow->labels)
		return NO_RULE;
	if (!found && is_spent(follow))
		return refuse(DROPPED_FULL);
	draft = blank_draft();
	if (!draft)
		return refuse(ERRORS);
	draft->key = *key;
	draft->wire = *from;
	if (found)
		draft->flags = BPF_EXIST;
	if (draft_remote(draft, follow) != EXISTS)
		return REFUSED;
	draft->owner.local = place_of(from, REMOTE);
	draft->owner.scope = RELAY;
	draft->wire.port[LOCAL] = label_of(&draft->owner, follow);
	if (!draft->wire.port[LOCAL])
		return refuse(DROPPED_LABELS);
	draft->way_in.via = draft->way_out.via = skb->ifindex;
	began.ns = bpf_ktime_get_ns();
	made = !bpf_map_update_elem(&relays, &draft->key.virtual, &began, BPF_NOEXIST);
	if (enter(draft, follow, follow->ifindex) != EXISTS) {
		if (made)
			bpf_map_delete_elem(&relays, &draft->key.virtual);
		return REFUSED;
	}
	/* The second way in, by which the peer is known from its next packet on: as encodeRelayed of layout.ts has it. */
	draft->way_in.slot = FROM_RELAYED;
	draft->way_in.remote_side = draft->way_in.via = 0;
	draft->way_in.difference.addresses = draft->way_in.difference.ports = 0;
	bpf_map_update_elem(&ingress, from, &draft->way_in, BPF_NOEXIST);
	return bpf_map_lookup_elem(&ingress, from) ? EXISTS : refuse(DROPPED_FULL);
}

/*
 * From a peer without an agent, for a cell that is no longer here: on to where the cell is now. `from` is the peer's own
 * tuple, in which it is the remote end.
 */
static __noinline int relay(struct __sk_buff *skb, const struct tuple *from, __u32 l4, bool first, __be32 identification)
{
	struct packet packet = { .source = LOCAL, .l4 = l4, .ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6) };
	struct egress_key key = { .scope = RELAY };
	struct where onward = { .way = RELAYED_ON };
	struct egress_value *flow;
	struct wire_slot *slot;
	struct tuple wire = {};

	if (!is_alive(skb, &packet))
		return drop(ERRORS);
	__builtin_memcpy(key.virtual.address[LOCAL], from->address[REMOTE], sizeof(from->address[REMOTE]));
	__builtin_memcpy(key.virtual.address[REMOTE], from->address[LOCAL], sizeof(from->address[LOCAL]));
	key.virtual.port[LOCAL] = from->port[REMOTE];
	key.virtual.port[REMOTE] = from->port[LOCAL];
	key.virtual.protocol = from->protocol;
	flow = bpf_map_lookup_elem(&egress, &key);
	if (!flow || is_left_behind(flow)) {
		switch (is_opening(skb, &packet, from->protocol) ? take_on(skb, &key, from, flow) : NO_RULE) {
		case NO_RULE:
			return drop(DROPPED_UNKNOWN);
		case REFUSED:
			return TC_ACT_SHOT;
		case EXISTS:
			break;
		}
		flow = bpf_map_lookup_elem(&egress, &key);
		if (!flow)
			return drop(ERRORS);
	}
	onward.ifindex = room_of(flow, from->protocol);
	if (onward.ifindex) {
		struct stamp stamp = { .scope = RELAY };

		onward.way = INTO_A_ROOM;
		if (first)
			remember_first(identification, from, FROM_WIRE, &wire, &onward);
		note_relayed(skb, l4, &key.virtual, FIN_OF_PEER);
		return wait_in(skb, onward.ifindex, &stamp);
	}
	slot = slot_of(flow);
	if (!slot)
		return stand_in(skb, &key, flow, packet.l4, false);
	count(RELAYED);
	note_relayed(skb, l4, &key.virtual, FIN_OF_PEER);
	if (slot->identity)
		return PASS;
	wire.protocol = from->protocol;
	set_wire(&wire, flow, slot);
	if (!rewrite(skb, &packet, wire.protocol == IPPROTO_UDP, &wire, slot->difference))
		return drop(ERRORS);
	onward.ifindex = slot->ifindex;
	onward.difference = slot->difference.addresses;
	if (first)
		remember_first(identification, from, FROM_WIRE, &wire, &onward);
	return go(skb, &packet, &onward);
}

SEC("tc")
int from_wire(struct __sk_buff *skb)
{
	struct packet packet = { .source = REMOTE };
	struct ingress_value *flow;
	struct where inward;
	struct tuple wire = {};
	struct side *side;
	bool queued = false;
	__u32 cell = 0;

	if (skb->tc_index == DELIVERED) {
		skb->tc_index = 0;
		/* It may have the MAC address of the device that it has waited at. */
		if (skb->pkt_type != PACKET_HOST)
			bpf_skb_change_type(skb, PACKET_HOST);
		return PASS;
	}
	/* What is passing by another host's MAC address (a promiscuous device) is not ours. */
	if (skb->pkt_type != PACKET_HOST)
		return PASS;
	switch (parse(skb, &packet, &wire)) {
	case FOREIGN:
		return is_error(skb, &packet, &wire) ? error_from_wire(skb, packet.l4, &wire) : PASS;
	case FRAGMENT:
		return follow_first(skb, packet.identification, &wire, FROM_WIRE, NULL);
	case WHOLE:
		break;
	}
	flow = bpf_map_lookup_elem(&ingress, &wire);
	note_datagram(flow ? &flow->virtual : &wire);
	if (!flow) {
		if (!is_opening(skb, &packet, wire.protocol))
			return PASS;
		if (is_fenced(&packet, &wire))
			return drop(DROPPED_SYN);
		switch (admit(skb, &wire)) {
		case NO_RULE:
			if (!is_relayed(skb, &wire))
				return PASS;
			return relay(skb, &wire, packet.l4, packet.first, packet.identification);
		case REFUSED:
			return TC_ACT_SHOT;
		case EXISTS:
			break;
		}
		flow = bpf_map_lookup_elem(&ingress, &wire);
		if (!flow)
			return drop(ERRORS);
	}
	if (flow->slot == FROM_RELAYED)
		return relay(skb, &wire, packet.l4, packet.first, packet.identification);
	if (flow->local_side) {
		side = bpf_map_lookup_elem(&sides, &flow->local_side);
		if (!side)
			return drop(ERRORS);
		if (side->state >= LEAVING)
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
	note_use(&flow->used, wire.protocol);
	if (!rewrite(skb, &packet, wire.protocol == IPPROTO_UDP, &flow->virtual, flow->difference))
		return drop(ERRORS);
	inward = way_in_of(flow, cell, queued);
	if (inward.way == RELAYED_BACK) {
		if (!is_alive(skb, &packet))
			return drop(ERRORS);
		note_relayed(skb, packet.l4, &flow->virtual, FIN_OF_CELL);
	}
	if (packet.first)
		remember_first(packet.identification, &wire, FROM_WIRE, &flow->virtual, &inward);
	count(counter_of(&inward));
	return go(skb, &packet, &inward);
}

/* How much of a packet's transport header is quoted: all that TCP wants, and what a checksum yet to be made is in. */
#define QUOTED_BYTES 20

struct too_big_ipv4 {
	struct iphdr ip;
	__u8 type;
	__u8 code;
	__u16 check;
	__be16 unused;
	__be16 mtu;
	__u8 quoted[sizeof(struct iphdr) + QUOTED_BYTES];
};

struct too_big_ipv6 {
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 mtu;
	__u8 quoted[sizeof(struct ipv6hdr) + QUOTED_BYTES];
};

#define ICMP_FRAGMENTATION_NEEDED 4
#define ICMPV6_TOO_BIG 2
#define ERROR_HOPS 64

/* Puts an error in the place of the packet that it is about: its first `header` bytes go before what it quotes. */
static __always_inline int answer(struct __sk_buff *skb, const void *error, __u32 header, __u32 quoted)
{
	if (bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0) || bpf_skb_adjust_room(skb, header, BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, error, header, 0))
		return drop(ERRORS);
	return deliver(skb, DELIVERED);
}

static __noinline int answer_ipv4(struct __sk_buff *skb, const struct tuple *virtual, __u32 mtu)
{
	struct too_big_ipv4 error = { .type = ICMP_DEST_UNREACH, .code = ICMP_FRAGMENTATION_NEEDED };
	__u32 header = offsetof(struct too_big_ipv4, quoted);

	if (bpf_skb_load_bytes(skb, ETH_HLEN, error.quoted, sizeof(error.quoted)))
		return drop(ERRORS);
	error.mtu = bpf_htons(mtu);
	error.check = checksum_of(bpf_csum_diff(NULL, 0, (__be32 *)&error.type, sizeof(error) - sizeof(error.ip), 0));
	error.ip.version = 4;
	error.ip.ihl = sizeof(error.ip) / 4;
	error.ip.tot_len = bpf_htons(sizeof(error));
	error.ip.ttl = ERROR_HOPS;
	error.ip.protocol = IPPROTO_ICMP;
	error.ip.saddr = virtual->address[REMOTE][3];
	error.ip.daddr = virtual->address[LOCAL][3];
	error.ip.check = checksum_of(bpf_csum_diff(NULL, 0, (__be32 *)&error.ip, sizeof(error.ip), 0));
	return answer(skb, &error, header, sizeof(error.quoted));
}

static __noinline int answer_ipv6(struct __sk_buff *skb, const struct tuple *virtual, __u32 mtu)
{
	struct too_big_ipv6 error = { .type = ICMPV6_TOO_BIG };
	__u32 header = offsetof(struct too_big_ipv6, quoted);
	__u32 length = sizeof(error) - sizeof(error.ip);
	__be32 pseudo[2] = { bpf_htonl(length), bpf_htonl(IPPROTO_ICMPV6) };
	__s64 sum;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, error.quoted, sizeof(error.quoted)))
		return drop(ERRORS);
	error.mtu = bpf_htonl(mtu);
	__builtin_memcpy(&error.ip.saddr, virtual->address[REMOTE], sizeof(error.ip.saddr));
	__builtin_memcpy(&error.ip.daddr, virtual->address[LOCAL], sizeof(error.ip.daddr));
	sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&error.ip.saddr, 2 * sizeof(error.ip.saddr), sum);
	error.check = checksum_of(bpf_csum_diff(NULL, 0, (__be32 *)&error.type, length, sum));
	error.ip.version = 6;
	error.ip.payload_len = bpf_htons(length);
	error.ip.nexthdr = IPPROTO_ICMPV6;
	error.ip.hop_limit = ERROR_HOPS;
	return answer(skb, &error, header, sizeof(error.quoted));
}

/* The loopback device takes packets of 64 KiB; the one that a packet leaves by instead may not. Its MTU if so, or 0. */
static __always_inline __u32 exceeded_mtu(struct __sk_buff *skb, __u32 ifindex)
{
	__u32 mtu = 0;

	if (skb->ifindex != LOOPBACK_IFINDEX || ifindex == LOOPBACK_IFINDEX)
		return 0;
	return bpf_check_mtu(skb, ifindex, &mtu, 0, skb->gso_size ? BPF_MTU_CHK_SEGS : 0) > 0 ? mtu : 0;
}

/* Of a cell's or the host's own stack, about what it has got (nobody listens at that port, for example). */
static __noinline int error_from_stack(struct __sk_buff *skb, __u32 l4, struct tuple *outer, __u32 scope)
{
	struct packet error = { .source = LOCAL, .l4 = l4, .ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6) };
	struct egress_key key = { .scope = scope };
	struct egress_value *flow;
	struct packet quote = {};
	struct wire_slot *slot;
	struct tuple wire = {};

	if (!parse_quote(skb, &error, outer, &quote, &key.virtual))
		return unknown(scope);
	flow = bpf_map_lookup_elem(&egress, &key);
	if (!flow || (scope && !is_same_address(key.virtual.address[LOCAL], outer->address[LOCAL])))
		return unknown(scope);
	slot = slot_of(flow);
	if (!slot)
		return TC_ACT_SHOT;
	if (slot->identity && !scope)
		return PASS;
	set_wire(&wire, flow, slot);
	if (!rewrite_error(skb, &error, outer, &quote, &key.virtual, &wire, slot->difference))
		return drop(ERRORS);
	count(TRANSLATED_ICMP);
	skb->tc_index = TRANSLATED;
	return bpf_redirect_neigh(slot->ifindex, NULL, 0, 0);
}

/*
 * ARP, neighbour and group discovery. The neighbours of a cell are permanent on both sides, and its answer to a
 * solicitation would let go of what waits for it (see `queue`): dropped, and not worth counting.
 */
static __always_inline bool is_said_by_itself(struct __sk_buff *skb, const struct packet *packet,
					      const struct tuple *tuple)
{
	return skb->protocol == bpf_htons(ETH_P_ARP) || (packet->ipv6 && tuple->protocol == IPPROTO_ICMPV6);
}

static __always_inline int leave_otherwise(struct __sk_buff *skb, const struct packet *packet, struct tuple *tuple,
					   __u32 scope)
{
	if (is_error(skb, packet, tuple))
		return error_from_stack(skb, packet->l4, tuple, scope);
	return scope && is_said_by_itself(skb, packet, tuple) ? TC_ACT_SHOT : unknown(scope);
}

/* All ways out. `scope` as in struct egress_key; `out`: of a datagram that has waited, otherwise NULL. */
static __always_inline int leave(struct __sk_buff *skb, __u32 scope, const struct stamp *out)
{
	struct packet packet = { .source = LOCAL };
	struct egress_key key = { .scope = scope };
	struct where outward = { .way = ONTO_WIRE };
	struct tuple wire = {};
	struct egress_value *flow;
	struct wire_slot *slot;
	__u32 mtu;

	switch (parse(skb, &packet, &key.virtual)) {
	case FOREIGN:
		return leave_otherwise(skb, &packet, &key.virtual, scope);
	case FRAGMENT:
		return follow_first(skb, packet.identification, &key.virtual, scope, out);
	case WHOLE:
		break;
	}
	if (!scope)
		note_datagram(&key.virtual);
	flow = bpf_map_lookup_elem(&egress, &key);
	if (!flow || is_left_behind(flow)) {
		switch (is_opening(skb, &packet, key.virtual.protocol) ? depart(skb, &key, flow) : NO_RULE) {
		case NO_RULE:
			return unknown(scope);
		case REFUSED:
			return TC_ACT_SHOT;
		case EXISTS:
			break;
		}
		flow = bpf_map_lookup_elem(&egress, &key);
		if (!flow)
			return drop(ERRORS);
	}
	outward.ifindex = room_of(flow, key.virtual.protocol);
	/* Nothing goes back to where it comes from. */
	if (outward.ifindex && !(out && outward.ifindex == skb->ifindex)) {
		struct stamp stamp = { .scope = scope };

		outward.way = INTO_A_ROOM;
		if (packet.first)
			remember_first(packet.identification, &key.virtual, scope, &key.virtual, &outward);
		return wait_in(skb, outward.ifindex, out ? out : &stamp);
	}
	slot = slot_of(flow);
	if (!slot)
		return stand_in(skb, &key, flow, packet.l4, !scope);
	if (is_short(skb, &packet, key.virtual.protocol))
		announce(skb, flow, packet.l4, scope);
	if (slot->identity && !scope && !out)
		return PASS;
	note_use(&flow->used, key.virtual.protocol);
	if (!scope) {
		mtu = exceeded_mtu(skb, slot->ifindex);
		if (mtu)
			return packet.ipv6 ? answer_ipv6(skb, &key.virtual, mtu) : answer_ipv4(skb, &key.virtual, mtu);
	}
	set_wire(&wire, flow, slot);
	if (!rewrite(skb, &packet, key.virtual.protocol == IPPROTO_UDP, &wire, slot->difference))
		return drop(ERRORS);
	if (packet.first) {
		outward.ifindex = slot->ifindex;
		outward.difference = slot->difference.addresses;
		remember_first(packet.identification, &key.virtual, scope, &wire, &outward);
	}
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
	return leave(skb, 0, NULL);
}

SEC("tc")
int from_cell(struct __sk_buff *skb)
{
	/* From cell_out it has no MAC address of ours; the loopback device would hand it on as another host's. */
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	return leave(skb, skb->ifindex, NULL);
}

/* It waits in the queue of the near end's neighbour, of which the newest are kept; see `queue`. */
static __always_inline int go_in(struct __sk_buff *skb, struct room *room, __u32 passed)
{
	struct packet packet = { .ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6) };

	skb->tc_index = OUT_OF_ROOM + passed;
	__sync_fetch_and_add(&room->came, 1);
	count(WAITED);
	return queue(&packet, room->near);
}

/* On its way as if it had been said only now. */
static __always_inline int come_out(struct __sk_buff *skb, struct room *room, __u32 passed)
{
	struct stamp stamp = { .rooms = passed + 1 };
	__u64 time = skb->tstamp_type == BPF_SKB_TSTAMP_DELIVERY_MONO ? skb->tstamp : 0;
	int verdict;

	stamp.ms = time;
	stamp.scope = time >> 32;
	skb->tc_index = 0;
	if (bpf_skb_set_tstamp(skb, 0, BPF_SKB_TSTAMP_UNSPEC))
		return drop(ERRORS);
	if (now_ms() - stamp.ms > room->late_ms) {
		__sync_fetch_and_add(&room->late, 1);
		return drop(DROPPED_LATE);
	}
	verdict = leave(skb, stamp.scope, &stamp);
	/* Its flow has ended; or it is dropped for another reason, and counted. */
	if (verdict == PASS)
		return drop(DROPPED_UNKNOWN);
	if (verdict == TC_ACT_SHOT)
		return verdict;
	__sync_fetch_and_add(&room->left, 1);
	count(LET_OUT);
	return verdict;
}

SEC("tc")
int from_room(struct __sk_buff *skb)
{
	__u32 far = skb->ifindex, passed = skb->tc_index & ROOMS_PASSED_BITS;
	struct room *room = bpf_map_lookup_elem(&rooms, &far);

	if (!room)
		return TC_ACT_SHOT;
	switch (skb->tc_index & ~ROOMS_PASSED_BITS) {
	case INTO_ROOM:
		return go_in(skb, room, passed);
	case OUT_OF_ROOM:
		return come_out(skb, room, passed);
	default:
		/* The near end asks who the neighbour is. */
		return TC_ACT_SHOT;
	}
}

/* A flow that goes round inside the cell has no entry. */
SEC("tc")
int cell_out(struct __sk_buff *skb)
{
	struct packet packet = { .source = LOCAL };
	struct egress_key key = {};
	__u32 class = skb->tc_classid;
	struct cell *cell;

	if (parse(skb, &packet, &key.virtual) != WHOLE)
		return PASS;
	cell = bpf_map_lookup_elem(&cells, &class);
	if (!cell)
		return PASS;
	key.scope = cell->scope;
	if (!bpf_map_lookup_elem(&egress, &key))
		return PASS;
	return bpf_redirect(cell->ifindex, 0);
}

SEC("tc")
int cell_held(struct __sk_buff *skb)
{
	struct packet packet = { .source = LOCAL };
	__u32 class = skb->tc_classid;
	struct egress_key key = {};
	struct egress_value *flow;
	struct side *side;
	struct cell *cell;

	if (parse(skb, &packet, &key.virtual) != WHOLE || key.virtual.protocol != IPPROTO_TCP)
		return PASS;
	cell = bpf_map_lookup_elem(&cells, &class);
	if (!cell)
		return PASS;
	key.scope = cell->scope;
	flow = bpf_map_lookup_elem(&egress, &key);
	if (!flow)
		return PASS;
	side = bpf_map_lookup_elem(&sides, &flow->remote_side);
	if (!side || side->state != HELD)
		return PASS;
	count(DROPPED_HELD);
	return stand_in(skb, &key, flow, packet.l4, true);
}

SEC("tc")
int cell_in(struct __sk_buff *skb)
{
	return skb->tc_index == DELIVERED ? deliver(skb, 0) : PASS;
}

/*
 * What has waited for a process that is at home again goes in by the device that its flow uses, as if it came only now:
 * sockets may be bound to that device.
 */
SEC("tc")
int from_queue(struct __sk_buff *skb)
{
	struct packet packet = { .source = REMOTE };
	struct egress_key key = {};
	struct egress_value *flow;
	struct side *side;
	__u32 ifindex;

	if (skb->tc_index == DELIVERED)
		return deliver(skb, DELIVERED);
	if (parse(skb, &packet, &key.virtual) != WHOLE)
		return PASS;
	flow = bpf_map_lookup_elem(&egress, &key);
	if (!flow)
		return PASS;
	side = bpf_map_lookup_elem(&sides, &flow->remote_side);
	ifindex = flow->slots[side ? side->active & 1 : 0].ifindex;
	if (!ifindex)
		return PASS;
	if (ifindex == LOOPBACK_IFINDEX)
		return deliver(skb, DELIVERED);
	skb->tc_index = DELIVERED;
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}
#endif
