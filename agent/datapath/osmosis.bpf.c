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

#define FLOWS_MAX 65536
/* One for each slot of a flow. */
#define WIRE_TUPLES_MAX (2 * FLOWS_MAX)
#define SIDES_MAX 16384
#define LISTENERS_MAX 1024
#define FORWARDS_MAX 16384
#define WATCHED_MAX 1024
#define SEEN_MAX 16384

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
	note_datagram(flow ? &flow->virtual : &wire);
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
