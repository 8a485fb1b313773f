package forward

import "time"

const (
	// AssumedMTU is used while there is no route to any peer: Ethernet's.
	AssumedMTU = 1500

	// MinMTU is the least that a device's automatic MTU falls to, and the least path
	// that is believed without IPv6: what every IPv4 host must take (RFC 791). minIPv6
	// is the same of IPv6 (RFC 8200 section 5): the kernel takes IPv6 from a device
	// below it. Packets of that size are carried on any path, in outer fragments if it
	// has to be (RFC 2473 section 7.1).
	MinMTU  = 576
	MinIPv6 = 1280

	// MaxLink is the longest link header of an inner frame: Ethernet with two tags.
	MaxLink = EthernetLen + 2*TagLen
)

// A peer to which the kernel refuses to send what its route allows gets less, first by
// refusedStep and then by twice as much each time: a path of 1400 bytes on a link of
// 1500 is found with two refusals, on one of 9000 with seven. It gets more again once
// the route is another one, or after refusedRetry (RFC 1191 section 6.3).
const (
	refusedStep  = 64
	RefusedRetry = 10 * time.Minute
)
