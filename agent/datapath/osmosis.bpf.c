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

#define FLOWS_MAX 65536
/* One for each slot of a flow. */
#define WIRE_TUPLES_MAX (2 * FLOWS_MAX)
#define SIDES_MAX 16384
#define LISTENERS_MAX 1024
#define FORWARDS_MAX 16384
#define WATCHED_MAX 1024
#define SEEN_MAX 16384
#define CELLS_MAX 4096

#define IPV4_FRAGMENT_BITS 0x3fff /* "more fragments" and the offset */
#define PORTS_BYTES 4
#define IPV6_EXTENSIONS_MAX 2
#define TCP_OFFSET_FLAGS 13
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
	__u32 via; /* as in struct ingress_value: so that the whole flow can be read from here */
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

/* A cell, as the programs inside it need to know it. */
struct cell {
	__u32 scope; /* host end of its veth */
	__u32 ifindex; /* the end inside */
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
	COUNTERS
};

_Static_assert(sizeof(struct tuple) == 40, "layout.ts");
_Static_assert(sizeof(struct egress_key) == 44, "layout.ts");
_Static_assert(sizeof(struct ingress_value) == 60, "layout.ts");
_Static_assert(sizeof(struct egress_value) == 88, "layout.ts");
_Static_assert(sizeof(struct side) == 8, "layout.ts");
_Static_assert(sizeof(struct listener) == 20, "layout.ts");
_Static_assert(sizeof(struct cell) == 8, "layout.ts");

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
	count(QUEUED_IN);
	return bpf_redirect_neigh(cell, &next, sizeof(next), 0);
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

static __always_inline int leave(struct __sk_buff *skb, __u32 scope);

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

/* From a peer without an agent, for a cell that is no longer here: on to where the cell is now. */
static __always_inline int relay(struct __sk_buff *skb, const struct packet *packet)
{
	if (!is_alive(skb, packet))
		return drop(ERRORS);
	count(RELAYED);
	return leave(skb, RELAY);
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

/* Translated, for a peer without an agent. */
static __always_inline int relay_back(struct __sk_buff *skb, const struct packet *packet, __u32 via)
{
	if (!is_alive(skb, packet))
		return drop(ERRORS);
	count(RELAYED);
	skb->tc_index = TRANSLATED;
	return bpf_redirect_neigh(via, NULL, 0, 0);
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

	if (skb->tc_index == DELIVERED) {
		skb->tc_index = 0;
		return PASS;
	}
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
	note_datagram(flow ? &flow->virtual : &wire);
	if (!flow)
		return is_fenced_syn(skb, &packet, &wire) ? drop(DROPPED_SYN) : PASS;
	if (flow->slot == FROM_RELAYED)
		return relay(skb, &packet);
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
	if (flow->via && flow->via != LOOPBACK_IFINDEX)
		return relay_back(skb, &packet, flow->via);
	/* For cell_in, which it passes next. */
	if (flow->via && cell)
		skb->tc_index = DELIVERED;
	if (queued)
		return queue(&packet, cell);
	count(TRANSLATED_IN);
	if (flow->via && !cell && skb->ifindex != LOOPBACK_IFINDEX)
		return deliver(skb, DELIVERED);
	return cell ? bpf_redirect_peer(cell, 0) : PASS;
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

#define ICMP_UNREACHABLE 3
#define ICMP_FRAGMENTATION_NEEDED 4
#define ICMPV6_TOO_BIG 2
#define ERROR_HOPS 64

static __always_inline __u16 checksum_of(__s64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Puts an error in the place of the packet that it is about: its first `header` bytes go before what it quotes. */
static __always_inline int answer(struct __sk_buff *skb, const void *error, __u32 header, __u32 quoted)
{
	if (bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0) || bpf_skb_adjust_room(skb, header, BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, error, header, 0))
		return drop(ERRORS);
	return deliver(skb, DELIVERED);
}

static __always_inline int answer_ipv4(struct __sk_buff *skb, const struct tuple *virtual, __u32 mtu)
{
	struct too_big_ipv4 error = { .type = ICMP_UNREACHABLE, .code = ICMP_FRAGMENTATION_NEEDED };
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

static __always_inline int answer_ipv6(struct __sk_buff *skb, const struct tuple *virtual, __u32 mtu)
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
	__u32 mtu;

	switch (parse(skb, &packet, &key.virtual)) {
	case FOREIGN:
		return scope && !is_between_neighbours(skb, &key.virtual) ? drop(DROPPED_UNKNOWN) : PASS;
	case FRAGMENT:
		count(PASSED_FRAGMENTS);
		return scope ? TC_ACT_SHOT : PASS;
	case WHOLE:
		break;
	}
	if (!scope)
		note_datagram(&key.virtual);
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

	if (slot->identity && (!scope || scope == RELAY))
		return PASS;
	if (!scope) {
		mtu = exceeded_mtu(skb, slot->ifindex);
		if (mtu)
			return packet.ipv6 ? answer_ipv6(skb, &key.virtual, mtu) : answer_ipv4(skb, &key.virtual, mtu);
	}
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
int cell_in(struct __sk_buff *skb)
{
	return skb->tc_index == DELIVERED ? deliver(skb, 0) : PASS;
}
