package udp

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// cmsg builds one control message with the length field given, or the true one
// if that is negative.
func cmsg(length int, level, kind int32, data ...byte) []byte {
	b := make([]byte, cmsgHdrLen+cmsgPad(len(data)))
	got, _ := putCmsg(b, 0, level, kind, len(data))
	copy(got, data)
	if length >= 0 {
		binary.NativeEndian.PutUint64(b, uint64(length))
	}
	return b
}

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func join(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func TestParseCmsgs(t *testing.T) {
	gro := cmsg(-1, unix.SOL_UDP, unix.UDP_GRO, native32(1400)...)
	tos := cmsg(-1, unix.SOL_IP, unix.IP_TOS, 0xb9)
	class := cmsg(-1, unix.SOL_IPV6, unix.IPV6_TCLASS, native32(0x2e)...)
	info4 := cmsg(-1, unix.SOL_IP, unix.IP_PKTINFO, join(native32(7), make([]byte, 8))...)
	info6 := cmsg(-1, unix.SOL_IPV6, unix.IPV6_PKTINFO, join(make([]byte, 16), native32(9))...)
	drops := cmsg(-1, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, native32(3)...)
	for _, c := range []struct {
		name string
		in   []byte
		want received
	}{
		{"none", nil, received{}},
		{"all of IPv4", join(drops, info4, tos, gro), received{1400, 7, 3, true, 0xb9, false}},
		{"to a broadcast address", cmsg(-1, unix.SOL_IP, unix.IP_PKTINFO, join(native32(7), []byte{192, 0, 2, 1, 192, 0, 2, 255})...), received{ifindex: 7, broadcast: true}},
		{"to our address", cmsg(-1, unix.SOL_IP, unix.IP_PKTINFO, join(native32(7), []byte{192, 0, 2, 1, 192, 0, 2, 1})...), received{ifindex: 7}},
		{"without a route", cmsg(-1, unix.SOL_IP, unix.IP_PKTINFO, join(native32(0), []byte{0, 0, 0, 0, 192, 0, 2, 1})...), received{}},
		{"to a group of IPv6", cmsg(-1, unix.SOL_IPV6, unix.IPV6_PKTINFO, join([]byte{0xff, 2}, make([]byte, 14), native32(7))...), received{ifindex: 7, broadcast: true}},
		{"all of IPv6", join(drops, info6, class, gro), received{1400, 9, 3, true, 0x2e, false}},
		{"unknown ones are skipped", join(cmsg(-1, 99, 99, 1, 2, 3), tos), received{tos: 0xb9}},
		{"last without padding", join(gro, tos[:cmsgHdrLen+1]), received{groSize: 1400, tos: 0xb9}},
		{"header cut off", join(tos, gro[:cmsgHdrLen-1]), received{tos: 0xb9}},
		{"data cut off", join(tos, gro[:cmsgHdrLen+2]), received{tos: 0xb9}},
		{"length 0", join(tos, cmsg(0, unix.SOL_UDP, unix.UDP_GRO, native32(1)...), gro), received{tos: 0xb9}},
		{"length below header", join(cmsg(cmsgHdrLen-1, 1, 1), tos), received{}},
		{"length beyond all", join(cmsg(1<<62, 1, 1), tos), received{}},
		{"data too short", cmsg(-1, unix.SOL_UDP, unix.UDP_GRO, 1, 2), received{}},
		{"negative train size", cmsg(-1, unix.SOL_UDP, unix.UDP_GRO, native32(1<<31)...), received{}},
		{"pktinfo too short", cmsg(-1, unix.SOL_IPV6, unix.IPV6_PKTINFO, make([]byte, 19)...), received{}},
	} {
		if got := parseCmsgs(c.in); got != c.want {
			t.Errorf("%s: parseCmsgs = %+v, want %+v", c.name, got, c.want)
		}
	}
}

// FuzzParseCmsgs: no input reads out of bounds, and what is understood is
// the same when it is encoded again.
func FuzzParseCmsgs(f *testing.F) {
	f.Add([]byte{})
	f.Add(join(cmsg(-1, unix.SOL_UDP, unix.UDP_GRO, native32(1400)...), cmsg(-1, unix.SOL_IP, unix.IP_TOS, 3)))
	f.Add(cmsg(1<<60, unix.SOL_IP, unix.IP_PKTINFO, make([]byte, 12)...))
	f.Add(cmsg(cmsgHdrLen, unix.SOL_IPV6, unix.IPV6_PKTINFO))
	f.Fuzz(func(t *testing.T, b []byte) {
		exact := append(make([]byte, 0, len(b)), b...)
		r := parseCmsgs(exact)
		if r.groSize < 0 || r.drops != 0 && !r.hasDrops {
			t.Fatalf("parseCmsgs(%x) = %+v", b, r)
		}
		var again []byte
		if r.groSize > 0 {
			again = append(again, cmsg(-1, unix.SOL_UDP, unix.UDP_GRO, native32(uint32(r.groSize))...)...)
		}
		if r.hasDrops {
			again = append(again, cmsg(-1, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, native32(r.drops)...)...)
		}
		again = append(again, cmsg(-1, unix.SOL_IP, unix.IP_TOS, r.tos)...)
		again = append(again, cmsg(-1, unix.SOL_IP, unix.IP_PKTINFO, join(native32(uint32(r.ifindex)), make([]byte, 8))...)...)
		if got := parseCmsgs(again); got != r {
			t.Fatalf("parseCmsgs(%x) = %+v, again %+v", b, r, got)
		}
	})
}
