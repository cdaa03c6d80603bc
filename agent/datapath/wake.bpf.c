// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Once a suspended cell is back: the sockets of its peers that have something to say to it must not wait for timers that have
 * backed off to 120 s, and what the cell says first may get lost on its way. So each socket in `waiting` hears what the cell
 * would say with room for one segment; that segment the cell answers with all the room that there is. docs/datapath.md.
 *
 * `wake` is run by hand (BPF_PROG_TEST_RUN) in the network namespace of the sockets, with any packet, which it makes these of.
 * It answers with how many sockets have waited, and MORE as long as there are others to come: the kernel's queue for what
 * it receives so (net.core.netdev_max_backlog, 1,000) is not to overflow. It needs the kernel's type information (BTF); socket-wakes.ts runs it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* The kernel offers some of the helpers below to GPL-compatible programs only. */
char LICENSE[] SEC("license") = "GPL";

#define SOCKETS_MAX 65536
#define IPV4_AT 3 /* of an address: where IPv4 is in it */
#define HOPS 255
#define WINDOW_MAX 0xffff
/* A timer is taken back by so many doublings at a time. */
#define BACKOFFS_MAX 40
/* In one run. */
#define PACKETS_MAX 500
#define MORE 0x80000000
/* linux/icmp.h needs a C library's headers for the machine at hand. */
#define ICMP_DEST_UNREACH 3
#define ICMP_HOST_UNREACH 1
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_NOROUTE 0
/* inet_sock.inet_flags since Linux 6.6: IP_RECVERR and IPV6_RECVERR. */
#define INET_RECVERR ((1 << 9) | (1 << 26))
/* ESTABLISHED, FIN-WAIT-1, CLOSE-WAIT, LAST-ACK, CLOSING of include/net/tcp_states.h */
#define STATES_OF_SENDERS (1 << 1 | 1 << 4 | 1 << 8 | 1 << 9 | 1 << 11)

struct socket_key {
	__be32 local[4]; /* IPv4 as ::ffff:a.b.c.d */
	__be32 remote[4];
	__u16 local_port; /* host's order */
	__u16 remote_port;
};

/* Where the kernel receives what is said to a socket. */
struct wake_at {
	__u32 ifindex;
	__u16 tc_index; /* a mark of the datapath's, or 0 */
	__u8 mac[ETH_ALEN]; /* of that device */
	__u8 urge; /* 1: only if its timer has backed off, and that is taken back */
	__u8 done; /* 1: it has had its turn */
	__u8 pad[2];
};

_Static_assert(sizeof(struct socket_key) == 36, "socket-layout.ts");
_Static_assert(sizeof(struct wake_at) == 16, "socket-wakes.ts");

/* The structures of the kernel: those parts of them that are looked at; libbpf finds where they are. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sock_common___kernel {
	volatile unsigned char skc_state;
};

struct inet_sock___kernel {
	unsigned long inet_flags;
};

struct inet_connection_sock___kernel {
	__u8 icsk_retransmits;
	__u8 icsk_backoff;
};

struct tcp_options_received___kernel {
	__u16 snd_wscale : 4;
};

struct tcp_sock___kernel {
	struct tcp_options_received___kernel rx_opt;
	__u32 rcv_nxt;
	__u32 snd_una;
	__u32 write_seq;
	__u32 packets_out;
	__u32 mss_cache;
};

#pragma clang attribute pop

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SOCKETS_MAX);
	__type(key, struct socket_key);
	__type(value, struct wake_at);
} waiting SEC(".maps");

struct waking {
	struct __sk_buff *skb;
	__u32 waited;
	__u32 packets;
	__u32 more;
};

/* What is said to a socket, and what of its own is quoted: its oldest byte that is not acknowledged. */
struct word {
	__u32 seq;
	__u32 ack;
	__u16 window;
	__u8 backoff;
	bool in_flight;
};

struct word_ipv4 {
	struct iphdr ip;
	struct tcphdr tcp;
};

struct word_ipv6 {
	struct ipv6hdr ip;
	struct tcphdr tcp;
};

struct unreachable_ipv4 {
	struct iphdr ip;
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 unused;
	struct iphdr quoted;
	__be16 source;
	__be16 dest;
	__be32 seq;
};

struct unreachable_ipv6 {
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 unused;
	struct ipv6hdr quoted;
	__be16 source;
	__be16 dest;
	__be32 seq;
};

static __always_inline __u16 complement(__s64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

static __always_inline bool is_ipv4(const struct socket_key *key)
{
	return !key->local[0] && !key->local[1] && key->local[2] == bpf_htonl(0xffff);
}

/* In the place of what `skb` was; goes up the stack as if the device had received it. */
static __always_inline bool receive(struct __sk_buff *skb, const struct wake_at *at, __u16 protocol, const void *packet,
				    __u32 bytes, __u32 times)
{
	struct ethhdr ethernet = { .h_proto = bpf_htons(protocol) };
	__u32 i;

	__builtin_memcpy(ethernet.h_dest, at->mac, ETH_ALEN);
	if (bpf_skb_change_tail(skb, sizeof(ethernet) + bytes, 0) ||
	    bpf_skb_store_bytes(skb, 0, &ethernet, sizeof(ethernet), 0) ||
	    bpf_skb_store_bytes(skb, sizeof(ethernet), packet, bytes, 0))
		return false;
	for (i = 0; i < BACKOFFS_MAX && i < times; i++)
		if (bpf_clone_redirect(skb, at->ifindex, BPF_F_INGRESS))
			return false;
	return true;
}

static __always_inline void fill_word(struct tcphdr *tcp, const struct socket_key *key, const struct word *word)
{
	tcp->source = bpf_htons(key->remote_port);
	tcp->dest = bpf_htons(key->local_port);
	tcp->seq = bpf_htonl(word->seq);
	tcp->ack_seq = bpf_htonl(word->ack);
	tcp->window = bpf_htons(word->window);
	tcp->doff = sizeof(*tcp) / 4;
	tcp->ack = 1;
}

static __always_inline void fill_ipv4(struct iphdr *ip, __be32 from, __be32 to, __u8 protocol, __u32 bytes)
{
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tot_len = bpf_htons(bytes);
	ip->ttl = HOPS;
	ip->protocol = protocol;
	ip->saddr = from;
	ip->daddr = to;
	ip->check = complement(bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0));
}

static __always_inline void fill_ipv6(struct ipv6hdr *ip, const __be32 *from, const __be32 *to, __u8 protocol,
				      __u32 bytes)
{
	ip->version = 6;
	ip->payload_len = bpf_htons(bytes - sizeof(*ip));
	ip->nexthdr = protocol;
	ip->hop_limit = HOPS;
	__builtin_memcpy(&ip->saddr, from, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, to, sizeof(ip->daddr));
}

/* Of the pseudo-header and what follows the IPv6 header, `bytes` in all. */
static __always_inline __u16 checksum_over_ipv6(struct ipv6hdr *ip, __u8 protocol, void *payload, __u32 bytes)
{
	__be32 pseudo[2] = { bpf_htonl(bytes), bpf_htonl(protocol) };
	__s64 sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), 0);

	sum = bpf_csum_diff(NULL, 0, (__be32 *)&ip->saddr, 2 * sizeof(ip->saddr), sum);
	return complement(bpf_csum_diff(NULL, 0, payload, bytes, sum));
}

static __noinline bool say_ipv4(struct __sk_buff *skb, const struct socket_key *key, const struct wake_at *at,
				const struct word *word)
{
	struct word_ipv4 said = {};
	__be32 pseudo;
	__s64 sum;

	if (!key || !at || !word)
		return false;
	pseudo = bpf_htonl(IPPROTO_TCP << 16 | sizeof(said.tcp));
	fill_word(&said.tcp, key, word);
	fill_ipv4(&said.ip, key->remote[IPV4_AT], key->local[IPV4_AT], IPPROTO_TCP, sizeof(said));
	sum = bpf_csum_diff(NULL, 0, &pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(NULL, 0, &said.ip.saddr, 2 * sizeof(said.ip.saddr), sum);
	said.tcp.check = complement(bpf_csum_diff(NULL, 0, (__be32 *)&said.tcp, sizeof(said.tcp), sum));
	return receive(skb, at, ETH_P_IP, &said, sizeof(said), 1);
}

static __noinline bool say_ipv6(struct __sk_buff *skb, const struct socket_key *key, const struct wake_at *at,
				const struct word *word)
{
	struct word_ipv6 said = {};

	if (!key || !at || !word)
		return false;
	fill_word(&said.tcp, key, word);
	fill_ipv6(&said.ip, key->remote, key->local, IPPROTO_TCP, sizeof(said));
	said.tcp.check = checksum_over_ipv6(&said.ip, IPPROTO_TCP, &said.tcp, sizeof(said.tcp));
	return receive(skb, at, ETH_P_IPV6, &said, sizeof(said), 1);
}

/*
 * What has been said again and again while there was no answer is said once more only after up to 120 s. An ICMP error about
 * it says that the network was to blame: each takes one doubling of the timer back, and the segment goes out at
 * once if the timer would be over by now (RFC 6069; tcp_ld_RTO_revert).
 */
static __noinline bool excuse_ipv4(struct __sk_buff *skb, const struct socket_key *key, const struct wake_at *at,
				   const struct word *word)
{
	struct unreachable_ipv4 error = { .type = ICMP_DEST_UNREACH, .code = ICMP_HOST_UNREACH };

	if (!key || !at || !word)
		return false;
	fill_ipv4(&error.quoted, key->local[IPV4_AT], key->remote[IPV4_AT], IPPROTO_TCP,
		  sizeof(struct word_ipv4));
	error.source = bpf_htons(key->local_port);
	error.dest = bpf_htons(key->remote_port);
	error.seq = bpf_htonl(word->ack);
	error.check = complement(bpf_csum_diff(NULL, 0, (__be32 *)&error.type, sizeof(error) - sizeof(error.ip), 0));
	fill_ipv4(&error.ip, key->remote[IPV4_AT], key->local[IPV4_AT], IPPROTO_ICMP, sizeof(error));
	return receive(skb, at, ETH_P_IP, &error, sizeof(error), word->backoff);
}

static __noinline bool excuse_ipv6(struct __sk_buff *skb, const struct socket_key *key, const struct wake_at *at,
				   const struct word *word)
{
	struct unreachable_ipv6 error = { .type = ICMPV6_DEST_UNREACH, .code = ICMPV6_NOROUTE };

	if (!key || !at || !word)
		return false;
	fill_ipv6(&error.quoted, key->local, key->remote, IPPROTO_TCP, sizeof(struct word_ipv6));
	error.source = bpf_htons(key->local_port);
	error.dest = bpf_htons(key->remote_port);
	error.seq = bpf_htonl(word->ack);
	fill_ipv6(&error.ip, key->remote, key->local, IPPROTO_ICMPV6, sizeof(error));
	error.check = checksum_over_ipv6(&error.ip, IPPROTO_ICMPV6, &error.type, sizeof(error) - sizeof(error.ip));
	return receive(skb, at, ETH_P_IPV6, &error, sizeof(error), word->backoff);
}

static __always_inline struct bpf_sock *find(struct __sk_buff *skb, const struct socket_key *key)
{
	struct bpf_sock_tuple tuple = {};

	if (is_ipv4(key)) {
		tuple.ipv4.saddr = key->remote[IPV4_AT];
		tuple.ipv4.daddr = key->local[IPV4_AT];
		tuple.ipv4.sport = bpf_htons(key->remote_port);
		tuple.ipv4.dport = bpf_htons(key->local_port);
		return bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	__builtin_memcpy(tuple.ipv6.saddr, key->remote, sizeof(tuple.ipv6.saddr));
	__builtin_memcpy(tuple.ipv6.daddr, key->local, sizeof(tuple.ipv6.daddr));
	tuple.ipv6.sport = bpf_htons(key->remote_port);
	tuple.ipv6.dport = bpf_htons(key->local_port);
	return bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
}

/* False where it has nothing to say to the cell. */
static __always_inline bool read_word(struct word *word, void *sk)
{
	struct inet_connection_sock___kernel *connection = sk;
	struct inet_sock___kernel *inet = sk;
	struct tcp_sock___kernel *tcp = sk;
	__u32 state = BPF_CORE_READ((struct sock_common___kernel *)sk, skc_state);
	__u32 scale, window;

	word->ack = BPF_CORE_READ(tcp, snd_una);
	if (!(1 << (state & 31) & STATES_OF_SENDERS) || BPF_CORE_READ(tcp, write_seq) == word->ack)
		return false;
	word->seq = BPF_CORE_READ(tcp, rcv_nxt);
	word->in_flight = BPF_CORE_READ(tcp, packets_out) > 0;
	scale = BPF_CORE_READ_BITFIELD_PROBED(tcp, rx_opt.snd_wscale);
	window = (BPF_CORE_READ(tcp, mss_cache) >> (scale & 15)) + 1;
	word->window = window > WINDOW_MAX ? WINDOW_MAX : window;
	/* A process that asks to hear of ICMP errors (IP_RECVERR) would take it for the end. */
	if (word->in_flight && BPF_CORE_READ(connection, icsk_retransmits) &&
	    bpf_core_field_exists(inet->inet_flags) && !(BPF_CORE_READ(inet, inet_flags) & INET_RECVERR))
		word->backoff = BPF_CORE_READ(connection, icsk_backoff);
	if (word->backoff > BACKOFFS_MAX)
		word->backoff = BACKOFFS_MAX;
	return true;
}

static long wake_one(void *map, const struct socket_key *key, struct wake_at *at, struct waking *waking)
{
	struct __sk_buff *skb = waking->skb;
	struct word word = {};
	struct bpf_sock *found;
	bool waits = false;
	void *sk;

	(void)map;
	if (at->done)
		return 0;
	if (waking->packets > PACKETS_MAX) {
		waking->more = MORE;
		return 1;
	}
	at->done = 1;
	found = find(skb, key);
	if (!found)
		return 0;
	sk = bpf_skc_to_tcp_sock(found);
	if (sk)
		waits = read_word(&word, sk);
	bpf_sk_release(found);
	/* What was not in flight goes by a timer that has begun anew. */
	if (!waits || (at->urge && !word.backoff))
		return 0;
	waking->waited++;
	waking->packets += 1 + (at->urge ? word.backoff : 0);
	skb->tc_index = at->tc_index;
	if (is_ipv4(key)) {
		if (say_ipv4(skb, key, at, &word) && at->urge)
			excuse_ipv4(skb, key, at, &word);
	} else if (say_ipv6(skb, key, at, &word) && at->urge) {
		excuse_ipv6(skb, key, at, &word);
	}
	return 0;
}

SEC("tc")
int wake(struct __sk_buff *skb)
{
	struct waking waking = { .skb = skb };

	bpf_for_each_map_elem(&waiting, wake_one, &waking, 0);
	return waking.waited | waking.more;
}
