//go:build ignore

// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// This file alone is dual-licensed: the kernel wants a licence compatible with its own
// for some of what it calls. All else of the project is under the licence in LICENSE.
//
// Two programs carry what needs no thought: learned unicast of TCP, UDP and ICMP.
//
//	tap_egress        a frame leaves by the tunnel's device: encapsulate, send to the peer
//	underlay_ingress  a datagram of a peer comes in: decapsulate, hand to the device
//
// What is to be done is said by entries of maps, which userspace makes. Where an entry is
// missing, or anything is unusual, the packet is left as it is and goes its way to
// userspace (TCX_NEXT): it is "punted", and counted by reason. Nothing is learned, flooded,
// answered, limited, fragmented or dropped here. All decisions are made before the first
// write to a packet.

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

char _license[] SEC("license") = "Dual BSD/GPL";

// Of newer kernels' linux/bpf.h than the oldest that this is built with.
#define NEXT -1     // TCX_NEXT
#define DROP 2      // TCX_DROP
#define DECAP_IPV4 (1ULL << 7) // BPF_F_ADJ_ROOM_DECAP_L3_IPV4, Linux 6.3
#define DECAP_IPV6 (1ULL << 8)

#define AF_INET 2
#define AF_INET6 10

#define ETH_IPV4 bpf_htons(0x0800)
#define ETH_IPV6 bpf_htons(0x86dd)
#define ETH_VLAN bpf_htons(0x8100)
#define ETH_QINQ bpf_htons(0x88a8)
#define TCP 6
#define UDP 17
#define ICMP 1
#define ICMPV6 58

// What the programs read of the kernel's own struct sk_buff. The offsets are the running
// kernel's (CO-RE).
struct sk_buff {
	unsigned int end;
	unsigned char *head;
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));
struct skb_shared_info {
	unsigned int gso_type;
} __attribute__((preserve_access_index));
extern void *bpf_cast_to_kern_ctx(void *) __ksym;
extern void *bpf_rdonly_cast(void *, __u32) __ksym;

// Values of ip_summed and bits of gso_type (include/linux/skbuff.h). They have no named
// type to look up in BTF; a test compares them with the running kernel's.
#define CHECKSUM_UNNECESSARY 1
#define CHECKSUM_PARTIAL 3
#define GSO_UDP_TUNNEL (1 << 10 | 1 << 11) // without and with outer checksum

struct eth {
	__u8 dst[6], src[6];
	__be16 proto;
};
struct ipv4 {
	__u8 version, tos;
	__be16 len, id, fragment;
	__u8 ttl, proto;
	__u16 check;
	__be32 src, dst;
};
struct ipv6 {
	__be32 flow; // version, traffic class, flow label
	__be16 len;
	__u8 next, hops;
	__be32 src[4], dst[4];
};
struct udp {
	__be16 src, dst, len;
	__u16 check;
};
struct tcp {
	__be16 src, dst;
	__be32 seq, ack;
	__u8 offset, flags;
	__be16 window, check, urgent;
};
struct icmp {
	__u8 type, code;
	__u16 check;
	__be32 mtu;
};
struct geneve {
	__be32 first, vni;
};

// Why a packet is left to userspace. The names, and what they mean, are in vtep/count/punt.go, in the same order.
enum punt {
	GROUP = 1,       // broadcast or multicast, or its source is
	NOT_IP,          // ARP and all else that is not IP
	TAGGED,          // a VLAN tag
	HEADERS,         // IPv4 options, IPv6 extension headers, too short
	FRAGMENT,        // of an inner packet
	PROTOCOL,        // not TCP, UDP, ICMP
	NEIGHBOUR,       // neighbour discovery
	LENGTH,          // the IP packet is not as long as the frame
	NO_SUM,          // inner UDP without a checksum: the outer one cannot be derived
	UNKNOWN,         // destination that is not learned, or to several peers
	HERE,            // destination on our own side
	SOURCE,          // new, moved, not where it was heard
	NO_PEER,         // the peer is gone, or there is no way to it
	TOO_BIG,         // for the path to the peer, or for the device
	OWN_FLOW,        // may be one of our own datagrams
	PATH,            // a router has just told that a path is narrow
	BULK,            // lone: super-frames and trains, and what follows them
	REMAINDER,       // outer checksums that cannot be the same for all pieces
	GENEVE,          // version, options, O, C, protocol
	CHECKSUM,        // outer checksum that is wrong, or of what is too long to verify here
	ECN,             // a combination that must be seen to
	FLOOD,           // it may be flooded, and the peer has a limit for that
	KERNEL,          // the kernel does not do it
	PUNTS,
};

enum { OUT, IN };

// tap is a tunnel's device.
struct tap {
	__u32 port; // in the keys of fdb
};

struct station {
	__u32 port;
	__u8 mac[6];
	__u16 zero;
};

// place is where a station is.
struct place {
	__s32 peer; // 0: on our own side
	__u32 zero;
	__u64 heard, used; // CLOCK_MONOTONIC, at most once a second; 0: never
};

#define PORTS 64

// Flags of a peer.
#define PEER_IPV6 1
#define PEER_LONE 2        // its device cuts no super-frames in tunnels
#define PEER_INHERIT_TTL 4
#define PEER_INHERIT_TOS 8
#define PEER_NO_SUM 16     // no outer checksum is wanted
#define PEER_CUTS 32       // outer packets may be fragmented: no Don't Fragment
#define PEER_NEXT 64       // by the next hop that is told: the kernel would look for one without ports
#define PEER_NEXT_IPV6 128

struct peer {
	__be32 src[4], dst[4], next[4]; // IPv4 in the first
	__be32 header[2];      // GENEVE
	__u32 ifindex, mark;
	__u32 limit; // longest inner frame
	__u32 sum;   // of the addresses, the protocol, the destination port and the header
	__be16 dport;
	__u16 path; // slot in paths
	__u8 ttl, tos, flags, count;
	__be16 ports[PORTS];
};

// admit is what a datagram must match. IPv4 addresses are IPv4-mapped.
struct admit {
	__be32 src[4], dst[4];
	__be32 vni; // with the reserved byte
	__u32 ifindex;
	__be16 dport;
	__u16 zero;
};

struct admitted {
	__s32 peer;
	__u32 port, tap;
	__u32 limited; // what it floods is limited
};

struct traffic {
	__u64 rx_packets, rx_bytes, tx_packets, tx_bytes;
	__u64 seen; // CLOCK_MONOTONIC of the last packet received
};

#define LISTEN 8
struct setting {
	__u64 seed;             // of the flow hash
	__be16 listen[LISTEN];  // ports that gvtep listens on; 0: no more
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct setting);
} settings SEC(".maps");

// A bucket is allocated for every entry that there may be, 16 bytes. What finds no room stays
// with userspace.
#define HASH(name, entries, k, v) \
	struct { \
		__uint(type, BPF_MAP_TYPE_HASH); \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__uint(max_entries, entries); \
		__type(key, k); \
		__type(value, v); \
	} name SEC(".maps")

HASH(taps, 1 << 12, __u32, struct tap);
HASH(fdb, 1 << 18, struct station, struct place);
HASH(peers, 1 << 15, __s32, struct peer);
HASH(admits, 1 << 15, struct admit, struct admitted);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 15);
	__type(key, __s32);
	__type(value, struct traffic);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * PUNTS);
	__type(key, __u32);
	__type(value, __u64);
} punts SEC(".maps");

// bulk is when the last of a flow was left to userspace, by its slot.
struct bulk {
	__u64 began; // super-frame or train
	__u64 last;  // or what followed it
};

#define SLOTS 4096
#define PATHS 1024
#define STAMPS(name, n, v) \
	struct { \
		__uint(type, BPF_MAP_TYPE_ARRAY); \
		__uint(max_entries, n); \
		__type(key, __u32); \
		__type(value, v); \
	} name SEC(".maps")

// Room for one datagram of each processor, to sum it up.
#define ROOM 2048
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8[ROOM]);
} rooms SEC(".maps");

STAMPS(sent_bulk, SLOTS, struct bulk);  // super-frames left to userspace
STAMPS(heard_bulk, SLOTS, struct bulk); // trains left to userspace
STAMPS(paths, PATHS, __u64);            // ICMP about a destination

#define MS 1000000ULL
#define SECOND (1000 * MS)
// What follows bulk goes after it, and what follows that, until for so long nothing has
// come: by then userspace has delivered all of it, and nothing is overtaken. A time from the
// bulk on would not do: at its end the next packet would overtake the one before.
#define GAP (100 * MS)
// But a flow without gaps does not stay there for ever.
#define BULK_TIME SECOND
// For so long after a router has told of a narrow path userspace sends: it hears of it
// from its sockets, and tells the senders.
#define PATH_TIME (2 * SECOND)

static __always_inline void *stamp(void *map, __u32 slot)
{
	return bpf_map_lookup_elem(map, &slot);
}

static __always_inline void begin(struct bulk *b, __u64 now)
{
	if (b)
		b->began = b->last = now;
}

// passed reports whether so much time has passed since. The clock is that for any context:
// it may be behind what another processor has noted a moment before (ktime_get_mono_fast_ns).
static __always_inline bool passed(__u64 since, __u64 now, __u64 time)
{
	return (__s64)(now - since) >= (__s64)time;
}

// follows reports whether a packet has to go after what was left to userspace.
static __always_inline bool follows(struct bulk *b, __u64 now)
{
	if (!b || !b->began || passed(b->last, now, GAP) || passed(b->began, now, BULK_TIME))
		return false;
	b->last = now;
	return true;
}

static __always_inline bool within(__u64 *stamp, __u64 now, __u64 time)
{
	__u64 at = stamp ? *stamp : 0;
	return at && !passed(at, now, time);
}

static __always_inline int punted(enum punt why, int way)
{
	__u32 key = 2 * why + way;
	__u64 *n = bpf_map_lookup_elem(&punts, &key);
	if (n)
		*n += 1;
	return NEXT;
}

// fold makes 16 bits of a sum of 32-bit words.
static __always_inline __u32 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// minus is what to add for taking a sum away.
static __always_inline __u32 minus(__u64 sum) { return 0xffff ^ fold(sum); }

// frame is what there is to know of an inner frame. Offsets count from its first byte.
struct frame {
	struct station src, dst;
	__u8 version, proto, tos, ttl;
	__u16 l4;     // where the transport header is
	__u16 head;   // where the payload is
	__u32 length; // as the IP header says
	__be32 ports;
	// What the packet adds to an outer checksum, whatever its length: its own checksums
	// make all of it sum up to the addresses of its pseudo-header, with opposite sign.
	__u32 sum;
	bool with_length; // and the length of the transport packet, with opposite sign
	__u64 x;          // of the flow hash
};

static __always_inline __u64 mix(__u64 x, __u64 w)
{
	x = (x ^ w) * 0x9e3779b97f4a7c15ULL;
	return x ^ x >> 32;
}

static __always_inline __u64 word(const __be32 *at)
{
	return (__u64)bpf_ntohl(at[0]) << 32 | bpf_ntohl(at[1]);
}

static __always_inline int parse_transport(void *at, void *end, __u16 l4, struct frame *f)
{
	f->l4 = l4;
	switch (f->proto) {
	case TCP: {
		struct tcp *t = at;
		if ((void *)(t + 1) > end)
			return HEADERS;
		if (t->offset < 0x50)
			return HEADERS;
		f->head = l4 + (t->offset >> 4) * 4;
		f->ports = *(__be32 *)at;
		break;
	}
	case UDP: {
		struct udp *u = at;
		if ((void *)(u + 1) > end)
			return HEADERS;
		if (!u->check)
			return NO_SUM;
		f->head = l4 + 8;
		f->ports = *(__be32 *)at;
		break;
	}
	default: { // ICMP
		struct icmp *i = at;
		if ((void *)(i + 1) > end)
			return HEADERS;
		if (f->proto == ICMPV6 && i->type >= 133 && i->type <= 137)
			return NEIGHBOUR;
		f->head = l4 + 8;
	}
	}
	if (f->head > f->length)
		return HEADERS;
	f->x = mix(f->x, (__u64)bpf_ntohl(f->ports) << 8 | f->proto);
	return 0;
}

// parse reads the inner frame at "at". It is one that packet.Walk finds all headers of, so
// that the flow hash is the same.
static __always_inline int parse(void *at, void *end, __u64 seed, struct frame *f)
{
	struct eth *e = at;
	if ((void *)(e + 1) > end)
		return HEADERS;
	if ((e->dst[0] | e->src[0]) & 1)
		return GROUP;
	__builtin_memcpy(f->dst.mac, e->dst, 6);
	__builtin_memcpy(f->src.mac, e->src, 6);
	if (e->proto == ETH_IPV4) {
		struct ipv4 *ip = at + 14;
		if ((void *)(ip + 1) > end || ip->version != 0x45)
			return HEADERS;
		if (ip->fragment & bpf_htons(0x3fff))
			return FRAGMENT;
		if (ip->proto != TCP && ip->proto != UDP && ip->proto != ICMP)
			return PROTOCOL;
		f->version = 4;
		f->proto = ip->proto;
		f->tos = ip->tos;
		f->ttl = ip->ttl;
		f->length = 14 + bpf_ntohs(ip->len);
		f->x = mix(seed, word(&ip->src));
		if (ip->proto != ICMP) {
			f->sum = minus((__u64)ip->src + ip->dst + bpf_htons(ip->proto));
			f->with_length = true;
		}
		return parse_transport(at + 34, end, 34, f);
	}
	if (e->proto == ETH_IPV6) {
		struct ipv6 *ip = at + 14;
		if ((void *)(ip + 1) > end || (*(__u8 *)ip & 0xf0) != 0x60)
			return HEADERS;
		if (ip->next == 44)
			return FRAGMENT;
		if (ip->next == 0 || ip->next == 43 || ip->next == 60 || ip->next == 51)
			return HEADERS;
		if (ip->next != TCP && ip->next != UDP && ip->next != ICMPV6)
			return PROTOCOL;
		f->version = 6;
		f->proto = ip->next;
		f->tos = bpf_ntohl(ip->flow) >> 20;
		f->ttl = ip->hops;
		f->length = 54 + bpf_ntohs(ip->len);
		f->x = mix(mix(seed, word(ip->src)), word(ip->src + 2));
		f->x = mix(mix(f->x, word(ip->dst)), word(ip->dst + 2));
		// The addresses and the length are in the header, too, and cancel out.
		f->sum = fold((__u64)ip->flow + *(__u16 *)&ip->next) + minus(bpf_htons(ip->next));
		return parse_transport(at + 54, end, 54, f);
	}
	if (e->proto == ETH_VLAN || e->proto == ETH_QINQ)
		return TAGGED;
	return NOT_IP;
}

// reach sees to it that n bytes of the packet, or all there are, can be read.
static __always_inline void reach(struct __sk_buff *skb, __u32 n)
{
	if (n > skb->len)
		n = skb->len;
	if ((void *)(long)skb->data + n > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, n);
}

// touch notes a time, but not with every packet.
static __always_inline void touch(__u64 *at, __u64 now)
{
	if (passed(*at, now, SECOND))
		*at = now;
}

#define INNER 74 // the longest headers that parse reads

struct outer4 {
	struct ipv4 ip;
	struct udp udp;
	struct geneve geneve;
	struct eth eth;
} __attribute__((packed));

struct outer6 {
	struct ipv6 ip;
	struct udp udp;
	struct geneve geneve;
	struct eth eth;
} __attribute__((packed));

// sending is what was decided about a frame from the device.
struct sending {
	__u32 pieces, bytes; // as userspace counts them
	__u32 length;        // of the UDP datagram
	__u32 hash;
	__be16 sport;
	__u16 check;
	__u8 ttl, tos;
	struct eth eth;
};

static __always_inline int encapsulate4(struct __sk_buff *skb, struct peer *p, struct sending *s)
{
	if (bpf_skb_adjust_room(skb, sizeof(struct outer4), BPF_ADJ_ROOM_MAC,
	                        BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
	                        BPF_F_ADJ_ROOM_ENCAP_L2(14) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH))
		return KERNEL;
	struct ipv4 ip = {.version = 0x45, .tos = s->tos, .len = bpf_htons(20 + s->length), .ttl = s->ttl, .proto = UDP,
	                  .src = p->src[0], .dst = p->dst[0]};
	if (p->flags & PEER_CUTS)
		ip.id = bpf_get_prandom_u32();
	else
		ip.fragment = bpf_htons(0x4000);
	__u16 *w = (__u16 *)&ip;
	__u64 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += w[i];
	ip.check = ~fold(sum);
	struct outer4 o = {
		.ip = ip,
		.udp = {.src = s->sport, .dst = p->dport, .len = bpf_htons(s->length), .check = s->check},
		.geneve = {p->header[0], p->header[1]},
		.eth = s->eth,
	};
	return bpf_skb_store_bytes(skb, 14, &o, sizeof(o), 0) ? -DROP : 0;
}

static __always_inline int encapsulate6(struct __sk_buff *skb, struct peer *p, struct sending *s)
{
	if (bpf_skb_adjust_room(skb, sizeof(struct outer6), BPF_ADJ_ROOM_MAC,
	                        BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
	                        BPF_F_ADJ_ROOM_ENCAP_L2(14) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH))
		return KERNEL;
	struct outer6 o = {
		.ip = {.flow = bpf_htonl(6 << 28 | s->tos << 20), .len = bpf_htons(s->length), .next = UDP, .hops = s->ttl},
		.udp = {.src = s->sport, .dst = p->dport, .len = bpf_htons(s->length), .check = s->check},
		.geneve = {p->header[0], p->header[1]},
		.eth = s->eth,
	};
	__builtin_memcpy(o.ip.src, p->src, 16);
	__builtin_memcpy(o.ip.dst, p->dst, 16);
	return bpf_skb_store_bytes(skb, 14, &o, sizeof(o), 0) ? -DROP : 0;
}

// measure decides about sizes and checksum.
static __always_inline int measure(struct __sk_buff *skb, struct peer *p, struct frame *f, struct sending *s, __u64 now)
{
	__u32 length = skb->len, gso = skb->gso_size, piece = length;
	bool even = true;
	if (f->length != length)
		return LENGTH;
	s->pieces = 1;
	s->bytes = length;
	if (gso) {
		__u32 payload = length - f->head;
		if (!payload)
			return LENGTH;
		if (payload > gso) {
			s->pieces = (payload + gso - 1) / gso;
			s->bytes = length + (s->pieces - 1) * f->head;
			even = s->pieces * gso == payload;
			piece = f->head + gso;
		}
	}
	if (piece > p->limit)
		return TOO_BIG;
	s->length = 16 + length;
	struct bulk *bulk = stamp(&sent_bulk, s->hash >> 20);
	bool summed6 = p->flags & PEER_IPV6 && !(p->flags & PEER_NO_SUM);
	bool lone = gso && p->flags & PEER_LONE;
	if (lone || (summed6 && !even) || length > 65535 - 70) {
		begin(bulk, now);
		return summed6 && !even && !lone ? REMAINDER : BULK;
	}
	if (follows(bulk, now))
		return BULK;
	// UDP super-frames for a device without checksum offload: in a tunnel the kernel cannot
	// cut them, and loses them.
	struct sk_buff *k = bpf_cast_to_kern_ctx(skb);
	if (gso && BPF_CORE_READ_BITFIELD(k, ip_summed) != CHECKSUM_PARTIAL) {
		begin(bulk, now);
		return KERNEL;
	}
	if (p->flags & PEER_NO_SUM || !even)
		return 0;
	__be16 udp_length = bpf_htons(16 + piece);
	struct eth *e = &s->eth;
	__u16 *mac = (__u16 *)e;
	__u64 sum = (__u64)p->sum + s->sport + 2 * (__u64)udp_length + f->sum;
#pragma unroll
	for (int i = 0; i < 7; i++)
		sum += mac[i];
	if (f->with_length)
		sum += minus(bpf_htons(piece - f->l4));
	s->check = ~fold(sum);
	if (!s->check)
		s->check = 0xffff;
	return 0;
}

// out decides about a frame from a device, and encapsulates it. What it returns is a punt,
// or 0; *to is the peer.
static __always_inline int out(struct __sk_buff *skb, __u32 port, struct peer **to)
{
	if (skb->vlan_present)
		return TAGGED;
	__u32 zero = 0;
	struct setting *set = bpf_map_lookup_elem(&settings, &zero);
	if (!set)
		return KERNEL;
	struct frame f = {};
	f.src.port = f.dst.port = port;
	reach(skb, INNER);
	int why = parse((void *)(long)skb->data, (void *)(long)skb->data_end, set->seed, &f);
	if (why)
		return why;
	struct place *dst = bpf_map_lookup_elem(&fdb, &f.dst);
	if (!dst)
		return UNKNOWN;
	__s32 id = dst->peer;
	if (!id)
		return HERE;
	struct place *src = bpf_map_lookup_elem(&fdb, &f.src);
	if (!src || src->peer)
		return SOURCE;
	struct peer *p = bpf_map_lookup_elem(&peers, &id);
	struct traffic *t = bpf_map_lookup_elem(&counts, &id);
	if (!p || !t)
		return NO_PEER;
	*to = p;
	if (f.proto == UDP && *((__be16 *)&f.ports + 1) == p->dport)
		return OWN_FLOW;
	__u64 now = bpf_ktime_get_ns();
	if (within(stamp(&paths, p->path), now, PATH_TIME))
		return PATH;

	struct sending s = {};
	s.hash = (f.x * 0xff51afd7ed558ccdULL) >> 32;
	s.sport = p->ports[((__u64)s.hash * p->count >> 32) & (PORTS - 1)];
	s.ttl = p->flags & PEER_INHERIT_TTL && f.ttl ? f.ttl : p->ttl;
	s.tos = (p->flags & PEER_INHERIT_TOS ? f.tos & 0xfc : p->tos) | (f.tos & 3);
	__builtin_memcpy(s.eth.dst, f.dst.mac, 6);
	__builtin_memcpy(s.eth.src, f.src.mac, 6);
	s.eth.proto = f.version == 4 ? ETH_IPV4 : ETH_IPV6;
	why = measure(skb, p, &f, &s, now);
	if (why)
		return why;

	if (p->flags & PEER_IPV6)
		why = encapsulate6(skb, p, &s);
	else
		why = encapsulate4(skb, p, &s);
	if (why)
		return why;
	touch(&src->heard, now);
	touch(&dst->used, now);
	t->tx_packets += s.pieces;
	t->tx_bytes += s.bytes;
	return 0;
}

SEC("tcx/egress")
int tap_egress(struct __sk_buff *skb)
{
	__u32 dev = skb->ifindex;
	struct tap *tap = bpf_map_lookup_elem(&taps, &dev);
	if (!tap)
		return NEXT;
	struct peer *p = NULL;
	int why = out(skb, tap->port, &p);
	if (why > 0)
		return punted(why, OUT);
	if (why < 0 || !p)
		return DROP;
	skb->mark = p->mark;
	if (!(p->flags & PEER_NEXT))
		return bpf_redirect_neigh(p->ifindex, NULL, 0, 0);
	struct bpf_redir_neigh next = {.nh_family = p->flags & PEER_NEXT_IPV6 ? AF_INET6 : AF_INET};
	__builtin_memcpy(next.ipv6_nh, p->next, 16);
	return bpf_redirect_neigh(p->ifindex, &next, sizeof(next), 0);
}

// narrow notes that a router has told of a narrow path to a destination. The slot is
// that of a peer with this address.
static __always_inline void narrow(__be32 last)
{
	__u64 *at = stamp(&paths, (last * 2654435761U) >> 22);
	if (at)
		*at = bpf_ktime_get_ns();
}

// coming is a datagram that somebody is admitted for.
struct coming {
	struct admitted *from;
	__be32 first;
	__be16 sport;
	__u16 check;
	__u8 tos;
	__u32 pseudo; // sum of the pseudo-header
};

// right reports whether the outer checksum of a single datagram is right. It begins at
// "at"; pseudo is the sum of its pseudo-header.
static __always_inline bool right(struct __sk_buff *skb, const __u32 at, __u32 pseudo)
{
	__u32 zero = 0, length = skb->len - at;
	__u8 *room = bpf_map_lookup_elem(&rooms, &zero);
	if (!room || skb->gso_size || length > ROOM - 512 || length < 16)
		return false;
	if (bpf_skb_load_bytes(skb, at, room, length))
		return false;
	__s64 sum = pseudo;
	__u32 end = (length + 3) & ~3U;
	for (__u32 i = length; i < end; i++) // no bytes of another datagram
		room[i & (ROOM - 1)] = 0;
	for (__u32 i = 0; i < ROOM - 512 && i < end; i += 512) { // as much as older kernels take at once
		__u32 n = end - i;
		if (n > 512)
			n = 512;
		sum = bpf_csum_diff(NULL, 0, (__be32 *)(room + i), n, sum);
	}
	return sum >= 0 && fold(sum) == 0xffff;
}

// in decides about a datagram of a peer, whose inner frame is at "at", outer bytes behind
// the beginning, and decapsulates it. What it returns is a punt, or 0.
static __always_inline int in(struct __sk_buff *skb, struct coming *c, const int outer)
{
	if (c->first != bpf_htonl(0x6558))
		return GENEVE;
	struct sk_buff *k = bpf_cast_to_kern_ctx(skb);
	__u64 now = bpf_ktime_get_ns();
	struct bulk *bulk = stamp(&heard_bulk, (bpf_ntohs(c->sport) ^ c->from->peer * 40503) & (SLOTS - 1));
	__u32 gso = skb->gso_size;
	if (gso) {
		struct skb_shared_info *info =
			bpf_rdonly_cast(k->head + k->end, bpf_core_type_id_kernel(struct skb_shared_info));
		if (!(info->gso_type & GSO_UDP_TUNNEL)) {
			// Datagrams that the receiving device joined: userspace cuts and joins them.
			begin(bulk, now);
			return BULK;
		}
	}
	if (follows(bulk, now))
		return BULK;
	__u8 summed = BPF_CORE_READ_BITFIELD(k, ip_summed);
	if (!c->check) {
		if (outer == 70)
			return CHECKSUM;
	} else if (summed != CHECKSUM_UNNECESSARY && summed != CHECKSUM_PARTIAL && !right(skb, outer - 16, c->pseudo)) {
		return CHECKSUM;
	}
	__u32 zero = 0;
	struct setting *set = bpf_map_lookup_elem(&settings, &zero);
	if (!set)
		return KERNEL;
	struct frame f = {};
	f.src.port = f.dst.port = c->from->port;
	void *at = (void *)(long)skb->data + outer;
	int why = parse(at, (void *)(long)skb->data_end, set->seed, &f);
	if (why)
		return why;
	if (gso && f.proto == UDP) {
		// The kernel goes on taking it for a tunnel's: it would be cut wrongly for a socket.
		begin(bulk, now);
		return BULK;
	}
	if (f.proto == UDP) // a bridge might lead it to one of our sockets
#pragma unroll
		for (int i = 0; i < LISTEN; i++)
			if (*((__be16 *)&f.ports + 1) == set->listen[i])
				return OWN_FLOW;
	__u32 length = skb->len - outer;
	if (f.length > length || (gso && f.length != length))
		return LENGTH;
	struct place *src = bpf_map_lookup_elem(&fdb, &f.src);
	if (!src || src->peer != c->from->peer)
		return SOURCE;
	if (c->from->limited) {
		struct place *dst = bpf_map_lookup_elem(&fdb, &f.dst);
		if (!dst || dst->peer)
			return FLOOD;
	}
	// RFC 6040 section 4.2, as far as the inner header stays or becomes CE.
	__u8 ecn = c->tos & 3;
	if ((ecn == 3 && !(f.tos & 3)) || (ecn == 1 && (f.tos & 3) == 2))
		return ECN;
	__s32 peer = c->from->peer;
	struct traffic *t = bpf_map_lookup_elem(&counts, &peer);
	if (!t)
		return NO_PEER;
	__u32 mtu = 0;
	if (bpf_check_mtu(skb, c->from->tap, &mtu, -outer, 0))
		return TOO_BIG;
	struct eth e;
	__builtin_memcpy(e.dst, f.dst.mac, 6);
	__builtin_memcpy(e.src, f.src.mac, 6);
	e.proto = f.version == 4 ? ETH_IPV4 : ETH_IPV6;
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	if (outer == 50 && f.version == 6)
		flags |= DECAP_IPV6;
	if (outer == 70 && f.version == 4)
		flags |= DECAP_IPV4;
	if (bpf_skb_adjust_room(skb, -outer, BPF_ADJ_ROOM_MAC, flags))
		return KERNEL;
	if (bpf_skb_store_bytes(skb, 0, &e, sizeof(e), 0))
		return -DROP;
	if (ecn == 3)
		bpf_skb_ecn_set_ce(skb);
	__u32 pieces = 1, bytes = length;
	if (gso && length > f.head + gso) {
		pieces = (length - f.head + gso - 1) / gso;
		bytes += (pieces - 1) * f.head;
	}
	touch(&src->heard, now);
	t->rx_packets += pieces;
	t->rx_bytes += bytes;
	t->seen = now;
	return 0;
}

static __always_inline int receive4(struct __sk_buff *skb)
{
	reach(skb, 50 + INNER);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv4 *ip = data + 14;
	if ((void *)(ip + 1) > end || ip->version != 0x45 || ip->fragment & bpf_htons(0x3fff))
		return NEXT;
	__u16 *w = (__u16 *)ip;
	__u64 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += w[i];
	if (fold(sum) != 0xffff)
		return NEXT;
	if (ip->proto == ICMP) {
		struct icmp *i = data + 34;
		struct ipv4 *quoted = data + 42;
		if ((void *)(quoted + 1) <= end && i->type == 3 && i->code == 4)
			narrow(quoted->dst);
		return NEXT;
	}
	struct udp *u = data + 34;
	struct geneve *g = data + 42;
	if (ip->proto != UDP || (void *)(g + 1) > end)
		return NEXT;
	struct admit key = {
		.src = {0, 0, bpf_htonl(0xffff), ip->src}, .dst = {0, 0, bpf_htonl(0xffff), ip->dst},
		.vni = g->vni, .ifindex = skb->ifindex, .dport = u->dst,
	};
	struct coming c = {.first = g->first, .sport = u->src, .check = u->check, .tos = ip->tos};
	c.from = bpf_map_lookup_elem(&admits, &key);
	if (!c.from)
		return NEXT;
	if (bpf_ntohs(u->len) + 20 != bpf_ntohs(ip->len) || bpf_ntohs(ip->len) + 14 != skb->len)
		return punted(LENGTH, IN);
	c.pseudo = fold((__u64)ip->src + ip->dst + bpf_htons(UDP) + u->len);
	int why = in(skb, &c, 50);
	if (why > 0)
		return punted(why, IN);
	if (why < 0)
		return DROP;
	skb->mark = 0;
	return bpf_redirect(c.from->tap, BPF_F_INGRESS);
}

static __always_inline int receive6(struct __sk_buff *skb)
{
	reach(skb, 70 + INNER);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6 *ip = data + 14;
	if ((void *)(ip + 1) > end || (*(__u8 *)ip & 0xf0) != 0x60)
		return NEXT;
	if (ip->next == ICMPV6) {
		struct icmp *i = data + 54;
		struct ipv6 *quoted = data + 62;
		if ((void *)(quoted + 1) <= end && i->type == 2)
			narrow(quoted->dst[3]);
		return NEXT;
	}
	struct udp *u = data + 54;
	struct geneve *g = data + 62;
	if (ip->next != UDP || (void *)(g + 1) > end)
		return NEXT;
	struct admit key = {.vni = g->vni, .ifindex = skb->ifindex, .dport = u->dst};
	__builtin_memcpy(key.src, ip->src, 16);
	__builtin_memcpy(key.dst, ip->dst, 16);
	struct coming c = {.first = g->first, .sport = u->src, .check = u->check, .tos = bpf_ntohl(ip->flow) >> 20};
	c.from = bpf_map_lookup_elem(&admits, &key);
	if (!c.from)
		return NEXT;
	if (u->len != ip->len || bpf_ntohs(ip->len) + 54 != skb->len)
		return punted(LENGTH, IN);
	c.pseudo = bpf_htons(UDP) + u->len;
	for (int i = 0; i < 4; i++)
		c.pseudo += fold(ip->src[i]) + fold(ip->dst[i]);
	int why = in(skb, &c, 70);
	if (why > 0)
		return punted(why, IN);
	if (why < 0)
		return DROP;
	skb->mark = 0;
	return bpf_redirect(c.from->tap, BPF_F_INGRESS);
}

SEC("tcx/ingress")
int underlay_ingress(struct __sk_buff *skb)
{
	if (skb->pkt_type || skb->vlan_present) // not for us; of a VLAN device above
		return NEXT;
	if (skb->protocol == ETH_IPV4)
		return receive4(skb);
	if (skb->protocol == ETH_IPV6)
		return receive6(skb);
	return NEXT;
}

// For the types that Go shares.
const struct peer *unused_peer __attribute__((unused));
