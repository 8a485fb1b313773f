package fastpath

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// The world of the tests: our tunnel's device is lo, and so is the underlay's. Test frames
// come in by lo, too, whose address is zero: an outer frame is for us with that.
const (
	loopback = 1
	port     = 7
	remote   = int32(3)
	limited  = int32(4)
	vni      = 42
	seed     = 0x1234567890abcdef

	next     = -1
	redirect = 7
)

var (
	mine   = packet.MAC{2, 0, 0, 0, 0, 1} // of the device
	local  = packet.MAC{2, 0, 0, 0, 0, 2} // behind it
	theirs = packet.MAC{2, 0, 0, 0, 0, 3} // behind the peer
	others = packet.MAC{2, 0, 0, 0, 0, 4} // behind the peer with a limit
	nobody = packet.MAC{2, 0, 0, 0, 0, 9}

	ports = []uint16{50001, 50002, 50003, 50004, 50005}
)

// underlays are the addresses of the peer, of us, and of the peer with a limit.
var underlays = map[int][3]netip.Addr{
	4: {netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.3")},
	6: {netip.MustParseAddr("fd77::2"), netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::3")},
}

// newPath returns a path with its maps in the kernel, and one tunnel.
func newPath(t *testing.T, family int, edit func(*netio.FastPeer)) *Path {
	t.Helper()
	need(t)
	kernel, err := open()
	if err != nil {
		t.Fatal(err)
	}
	p := New(nil)
	p.kernel = kernel
	t.Cleanup(func() { kernel.Close() })
	p.Start(seed)
	p.Listen([]uint16{6081, 7777})
	p.closed = true // so that nothing is attached
	p.under[loopback] = &device{name: "lo", bulk: true}
	p.Set(tunnelOf(family, edit))
	for mac, peer := range map[packet.MAC]int32{local: 0, theirs: remote, others: limited} {
		p.Entry(port, mac, peer)
	}
	p.flush()
	return p
}

func tunnelOf(family int, edit func(*netio.FastPeer)) netio.FastTunnel {
	a := underlays[family]
	t := netio.FastTunnel{Port: port, Ifindex: loopback, Name: "gnv0", MAC: mine}
	for i, id := range []int32{remote, limited} {
		p := netio.FastPeer{
			ID: id, Ifindex: loopback, Source: a[1], Remote: netip.AddrPortFrom(a[2*i], 6081),
			Header: [8]byte{0, 0, 0x65, 0x58, 0, 0, vni, 0}, Ports: ports, TTL: 64, Limit: 1450, FloodLimited: id == limited,
			Admit: []netio.FastAdmission{{VNI: vni, Local: a[1], Port: 6081}},
		}
		if edit != nil {
			edit(&p)
		}
		t.Peers = append(t.Peers, p)
	}
	return t
}

// inner is an inner frame to be made.
type inner struct {
	dst, src packet.MAC
	version  int
	proto    byte
	tos, ttl byte
	sport    uint16
	dport    uint16
	payload  int
	icmp     byte
}

func plain() inner {
	return inner{dst: theirs, src: local, version: 4, proto: packet.ProtoTCP, ttl: 64, sport: 1000, dport: 2000, payload: 100}
}

// back is one that comes from the peer.
func back() inner {
	f := plain()
	f.dst, f.src = local, theirs
	return f
}

// bytes makes the frame, with right checksums.
func (f inner) bytes() []byte {
	var l4 []byte
	at := 0 // of the checksum
	switch f.proto {
	case packet.ProtoTCP:
		l4 = make([]byte, 20+f.payload)
		l4[12], at = 0x50, 16
	case packet.ProtoUDP:
		l4 = make([]byte, 8+f.payload)
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		at = 6
	default:
		l4 = make([]byte, 8+f.payload)
		l4[0], at = f.icmp, 2
	}
	if f.proto == packet.ProtoTCP || f.proto == packet.ProtoUDP {
		binary.BigEndian.PutUint16(l4, f.sport)
		binary.BigEndian.PutUint16(l4[2:], f.dport)
	}
	for i := len(l4) - f.payload; i < len(l4); i++ {
		l4[i] = byte(i)
	}
	ip := make([]byte, 20)
	src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	if f.version == 4 {
		ip[0], ip[1], ip[8], ip[9] = 0x45, f.tos, f.ttl, f.proto
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^sum16(ip))
	} else {
		ip = make([]byte, 40)
		src, dst = netip.MustParseAddr("fd92::1"), netip.MustParseAddr("fd92::2")
		binary.BigEndian.PutUint32(ip, 6<<28|uint32(f.tos)<<20)
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
		ip[6], ip[7] = f.proto, f.ttl
		copy(ip[8:], src.AsSlice())
		copy(ip[24:], dst.AsSlice())
	}
	sum := ^sum16(pseudo(f.proto, src, dst, len(l4)), l4)
	if sum == 0 && f.proto == packet.ProtoUDP {
		sum = 0xffff // 0 says that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(l4[at:], sum)
	frame := append(append([]byte{}, f.dst[:]...), f.src[:]...)
	frame = binary.BigEndian.AppendUint16(frame, map[int]uint16{4: packet.EtherTypeIPv4, 6: packet.EtherTypeIPv6}[f.version])
	return append(append(frame, ip...), l4...)
}

// pseudo is the pseudo-header; ICMP has none.
func pseudo(proto byte, src, dst netip.Addr, length int) []byte {
	if proto == 1 {
		return nil
	}
	b := append(src.AsSlice(), dst.AsSlice()...)
	return append(b, 0, 0, byte(length>>8), byte(length), 0, 0, 0, proto)
}

// sum16 adds up parts of even length but the last.
func sum16(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			w := uint32(b[i]) << 8
			if i+1 < len(b) {
				w |= uint32(b[i+1])
			}
			sum += w
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// outer is a datagram to be made.
type outer struct {
	family   int
	from, to netip.Addr
	tos      byte
	sport    uint16
	dport    uint16
	geneve   [8]byte
	noSum    bool
	inner    []byte
}

func carrying(family int, frame []byte) outer {
	a := underlays[family]
	return outer{family: family, from: a[0], to: a[1], sport: 50000, dport: 6081, geneve: [8]byte{0, 0, 0x65, 0x58, 0, 0, vni, 0}, inner: frame}
}

// bytes makes the frame, for us.
func (o outer) bytes() []byte {
	data := append(append(make([]byte, 8), o.geneve[:]...), o.inner...)
	binary.BigEndian.PutUint16(data, o.sport)
	binary.BigEndian.PutUint16(data[2:], o.dport)
	binary.BigEndian.PutUint16(data[4:], uint16(len(data)))
	if !o.noSum {
		sum := ^sum16(pseudo(packet.ProtoUDP, o.from, o.to, len(data)), data)
		if sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(data[6:], sum)
	}
	frame := make([]byte, 12)
	if o.family == 4 {
		ip := make([]byte, 20)
		ip[0], ip[1], ip[6], ip[8], ip[9] = 0x45, o.tos, 0x40, 64, packet.ProtoUDP
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(data)))
		copy(ip[12:], o.from.AsSlice())
		copy(ip[16:], o.to.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^sum16(ip))
		return append(append(append(frame, 8, 0), ip...), data...)
	}
	ip := make([]byte, 40)
	binary.BigEndian.PutUint32(ip, 6<<28|uint32(o.tos)<<20)
	binary.BigEndian.PutUint16(ip[4:], uint16(len(data)))
	ip[6], ip[7] = packet.ProtoUDP, 64
	copy(ip[8:], o.from.AsSlice())
	copy(ip[24:], o.to.AsSlice())
	return append(append(append(frame, 0x86, 0xdd), ip...), data...)
}

// skb is struct __sk_buff of linux/bpf.h, of which a test may set some.
type skb struct {
	Len, PktType, Mark, QueueMapping, Protocol, VlanPresent, VlanTCI, VlanProto uint32
	Priority, IngressIfindex, Ifindex, TCIndex                                  uint32
	CB                                                                          [5]uint32
	Hash, TCClassid, Data, DataEnd, NapiID, Family, RemoteIP4, LocalIP4         uint32
	RemoteIP6, LocalIP6                                                         [4]uint32
	RemotePort, LocalPort, DataMeta                                             uint32
	FlowKeys, Tstamp                                                            uint64
	WireLen, GSOSegs                                                            uint32
	Sk                                                                          uint64
	GSOSize                                                                     uint32
	TstampType                                                                  uint8
	_                                                                           [3]byte
	HWTstamp                                                                    uint64
}

// result is what a program made of a frame.
type result struct {
	action int
	data   []byte
	mark   uint32
	punts  []string // by reason, as often as counted
}

// test runs a program on one frame.
func (p *Path) test(t *testing.T, prog *ebpf.Program, frame []byte, gso int) result {
	t.Helper()
	before := p.punted()
	in, out := skb{Ifindex: loopback, GSOSize: uint32(gso), Mark: 99}, skb{}
	data := make([]byte, len(frame)+256)
	opts := ebpf.RunOptions{Data: frame, DataOut: data, Context: in, ContextOut: &out}
	action, err := prog.Run(&opts)
	if err != nil {
		t.Fatal(err)
	}
	r := result{action: int(int32(action)), data: opts.DataOut, mark: out.Mark}
	for key, n := range p.punted() {
		for range n - before[key] {
			r.punts = append(r.punts, key)
		}
	}
	return r
}

func (p *Path) punted() map[string]uint64 {
	all := map[string]uint64{}
	for _, c := range p.Punts() {
		all[c.Reason+map[bool]string{true: " in", false: " out"}[c.In]] = c.Count
	}
	return all
}

// entries counts the entries of a map.
func entries[K, V any](m *ebpf.Map) (n int) {
	var k K
	var v V
	for all := m.Iterate(); all.Next(&k, &v); {
		n++
	}
	return n
}
