package count

// Punt tells a person why a fast path has left a packet to the workers. It is the one source
// of gvtep explain; docs/fastpath.md has the same names.
type Punt struct {
	Name    string // as the metrics have it
	In, Out bool   // counted for packets from the underlay, from the device
	Usual   bool   // it says nothing about the host, however many there are
	What    string // was punted
	Cause   string // most likely
	Remedy  string
}

// Punts are all reasons, in the order of enum punt in internal/fastpath/fast.c.
func Punts() []Punt {
	return []Punt{
		{
			"group", true, true, true,
			"sent to a broadcast or multicast address, or from one",
			"ARP, neighbour discovery, DHCP and the like",
			"normal",
		},
		{
			"not_ip", true, true, true,
			"neither IPv4 nor IPv6",
			"ARP, or another protocol of Ethernet",
			"normal",
		},
		{
			"vlan", true, true, false,
			"a VLAN tag inside",
			"tagged stations behind a bridge",
			"normal; a tunnel for each VLAN, without tags, goes the fast way",
		},
		{
			"headers", true, true, false,
			"IPv4 options, IPv6 extension headers, or too short for its headers",
			"inner IPsec, routing headers, or a program that sets options",
			"normal; capture it if there should be none",
		},
		{
			"fragment", true, true, false,
			"an inner packet in fragments",
			"a sender that sends more than the MTU of the tunnel at once, such as UDP of NFS or DNS",
			"smaller datagrams at the sender",
		},
		{
			"protocol", true, true, false,
			"an inner protocol other than TCP, UDP and ICMP",
			"SCTP, GRE, OSPF and the like",
			"normal",
		},
		{
			"neighbour", true, true, true,
			"neighbour discovery of IPv6, which userspace may answer",
			"normal traffic",
			"normal",
		},
		{
			"length", true, true, false,
			"bytes behind the IP packet, or lengths that contradict each other",
			"frames shorter than 60 bytes that a sender has padded",
			"normal; capture it if there is much of it",
		},
		{
			"no_checksum", true, true, false,
			"an inner UDP datagram without a checksum, from which the outer one cannot be derived",
			"a program that sends with `SO_NO_CHECK`, or a tunnel inside the tunnel",
			"`noudpcsum` (IPv6: `udp6zerocsumtx`) does not help: it is looked for before; a checksum at the sender does",
		},
		{
			"unknown_destination", false, true, false,
			"the destination is not in the forwarding table, or there with several peers",
			"it has not been heard, or has aged",
			"`gvtep fdb show`; more `ageing`, or `learning` if it is off",
		},
		{
			"local_destination", false, true, false,
			"the destination is on our own side",
			"a bridge floods, or a station has moved",
			"normal for a moment",
		},
		{
			"source", true, true, false,
			"the source is new, has moved, or is pinned elsewhere",
			"a new station; two with one MAC address",
			"`gvtep fdb show` has the entry; `gvtep monitor fdb` shows moves",
		},
		{
			"no_peer", true, true, false,
			"there is no way to the peer, or it has gone",
			"a route is missing; IPsec on the way, which is not to be passed by",
			"`gvtep show -d` and `gvtep doctor`",
		},
		{
			"too_big", true, true, false,
			"larger than the path to the peer, or than the device",
			"the MTU of the stations is above that of the tunnel",
			"`mtu auto`; the senders are told",
		},
		{
			"own_flow", true, true, false,
			"to a UDP port that gvtep itself uses",
			"a tunnel inside the tunnel with the same port",
			"another `dstport` for one of both",
		},
		{
			"path", false, true, true,
			"for two seconds after a router said by ICMP that the path is narrow",
			"a link with a smaller MTU on the way",
			"normal",
		},
		{
			"bulk", true, true, true,
			"a super-frame for a device that does not cut in tunnels, a train of joined datagrams, and what follows them",
			"TCP in bulk by a plain card: userspace cuts and joins it faster",
			"normal; a card with `tx-udp_tnl-segmentation` carries it, too",
		},
		{
			"remainder", false, true, true,
			"over IPv6 a super-frame whose last piece is shorter: its outer checksum would be another",
			"TCP that sends less than whole pieces",
			"normal; `udp6zerocsumtx` here and `udp6zerocsumrx` there carry it, too",
		},
		{
			"geneve", true, false, false,
			"options, an O or C bit, another version or protocol",
			"the other end sends options",
			"no `options` at the other end, if nobody needs them",
		},
		{
			"checksum", true, false, false,
			"an outer checksum that is wrong, 0 over IPv6, or of more than 1,500 bytes that no device has verified",
			"jumbo frames and a card without receive checksum offload; bit errors",
			"`ethtool -K DEV rx on`; drops say whether packets were damaged",
		},
		{
			"ecn", true, false, true,
			"a combination of ECN that userspace has to judge (RFC 6040)",
			"congestion of the underlay",
			"normal",
		},
		{
			"flood_limit", true, false, false,
			"from a peer with `bum_limit`, to a station that is not known here",
			"the station is silent",
			"normal for a moment",
		},
		{
			"kernel", true, true, false,
			"the kernel does not encapsulate or decapsulate it",
			"UDP super-frames of a device without checksum offload",
			"`offload auto`",
		},
	}
}
