package udp

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Control messages travel beside a datagram (cmsg(3), ip(7), ipv6(7),
// udp(7)). Each is a header of length, level and type, then data, padded
// to the size of a long. All numbers are in host byte order.

const (
	cmsgHdrLen = unix.SizeofCmsghdr
	cmsgAlign  = int(unsafe.Sizeof(uintptr(0)))
	cmsgLenLen = int(unsafe.Sizeof(unix.Cmsghdr{}.Len))

	// ctrlLen holds all control messages of one datagram in either
	// direction. The most we send is UDP_SEGMENT, TOS, TTL and PKTINFO, the most
	// we ask to receive GRO size, TOS, PKTINFO and drop count: 112 bytes each
	// for IPv6 on 64-bit machines.
	ctrlLen = 128
)

func cmsgPad(n int) int { return (n + cmsgAlign - 1) &^ (cmsgAlign - 1) }

// received is what the control messages of one datagram say.
type received struct {
	groSize  int    // 0: not a train
	ifindex  int32  // 0: unknown
	drops    uint32 // of the socket since it was made, if hasDrops
	hasDrops bool
	tos      uint8
	// broadcast: it was not sent to an address of this host.
	broadcast bool
}

// parseCmsgs reads what it knows and skips what it does not. It never looks
// beyond b and stops at the first message whose length cannot be true, so a
// truncated buffer (MSG_CTRUNC) yields what was whole.
func parseCmsgs(b []byte) (r received) {
	for len(b) >= cmsgHdrLen {
		var n int
		if cmsgLenLen == 8 {
			l := binary.NativeEndian.Uint64(b)
			if l > uint64(len(b)) {
				return r
			}
			n = int(l)
		} else {
			l := binary.NativeEndian.Uint32(b)
			if uint64(l) > uint64(len(b)) {
				return r
			}
			n = int(l)
		}
		if n < cmsgHdrLen {
			return r
		}
		level := int32(binary.NativeEndian.Uint32(b[cmsgLenLen:]))
		kind := int32(binary.NativeEndian.Uint32(b[cmsgLenLen+4:]))
		r.take(level, kind, b[cmsgHdrLen:n])
		n = cmsgPad(n)
		if n >= len(b) {
			return r
		}
		b = b[n:]
	}
	return r
}

// take notes one control message; data shorter than its type needs is as if
// it were not there.
func (r *received) take(level, kind int32, data []byte) {
	switch {
	case level == unix.SOL_UDP && kind == unix.UDP_GRO:
		// An int; a train's size fits 16 bits (net/ipv4/udp.c udp_cmsg_recv).
		if len(data) >= 4 {
			if n := int32(binary.NativeEndian.Uint32(data)); n > 0 {
				r.groSize = int(n)
			}
		}
	case level == unix.SOL_IP && kind == unix.IP_TOS:
		if len(data) >= 1 {
			r.tos = data[0]
		}
	case level == unix.SOL_IPV6 && kind == unix.IPV6_TCLASS:
		if len(data) >= 4 {
			r.tos = uint8(binary.NativeEndian.Uint32(data))
		}
	case level == unix.SOL_IP && kind == unix.IP_PKTINFO:
		if len(data) >= unix.SizeofInet4Pktinfo {
			// The kernel gives the address of ours that an answer would have beside the one in
			// the header: for what was sent to an address of ours, and nothing else, they
			// are the same (net/ipv4/fib_frontend.c fib_compute_spec_dst). Without a route
			// it knows neither that address nor the device.
			r.ifindex = int32(binary.NativeEndian.Uint32(data))
			r.broadcast = r.ifindex != 0 && string(data[4:8]) != string(data[8:12])
		}
	case level == unix.SOL_IPV6 && kind == unix.IPV6_PKTINFO:
		if len(data) >= unix.SizeofInet6Pktinfo {
			r.ifindex = int32(binary.NativeEndian.Uint32(data[16:]))
			r.broadcast = data[0] == 0xff
		}
	case level == unix.SOL_SOCKET && kind == unix.SO_RXQ_OVFL:
		if len(data) >= 4 {
			r.drops, r.hasDrops = binary.NativeEndian.Uint32(data), true
		}
	}
}

// putCmsg writes the header of a control message at b[at:], clears its data and
// returns the data and where the next message goes.
func putCmsg(b []byte, at int, level, kind int32, n int) (data []byte, next int) {
	if cmsgLenLen == 8 {
		binary.NativeEndian.PutUint64(b[at:], uint64(cmsgHdrLen+n))
	} else {
		binary.NativeEndian.PutUint32(b[at:], uint32(cmsgHdrLen+n))
	}
	binary.NativeEndian.PutUint32(b[at+cmsgLenLen:], uint32(level))
	binary.NativeEndian.PutUint32(b[at+cmsgLenLen+4:], uint32(kind))
	next = at + cmsgHdrLen + cmsgPad(n)
	data = b[at+cmsgHdrLen : next]
	clear(data)
	return data, next
}

func putCmsgInt(b []byte, at int, level, kind int32, v uint32) (next int) {
	data, next := putCmsg(b, at, level, kind, 4)
	binary.NativeEndian.PutUint32(data, v)
	return next
}
