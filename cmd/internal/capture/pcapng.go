package capture

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"gvtep/internal/packet"
	"gvtep/vtep/capture"
	"gvtep/vtep/count"
)

// writer makes pcapng of records. A point is an interface; a second one where packets without an
// Ethernet header are among frames, as an interface has one link type.
type writer struct {
	out   *bufio.Writer
	pcap  *pcapgo.NgWriter
	began time.Time
	snap  int

	interfaces map[link]int
	lost       [capture.NumPoints]uint64 // as last told
	seen       [count.NumReasons]uint64
	packetBuf  []byte
}

// link is what is an interface in the file.
type link struct {
	point capture.Point
	ip    bool // packets begin with an IP header (LINKTYPE_RAW), not with an Ethernet header
}

func newWriter(w io.Writer, o *capture.Options, began time.Time) (*writer, error) {
	out := &writer{out: bufio.NewWriterSize(w, 128<<10), began: began, snap: o.Snaplen, interfaces: make(map[link]int)}
	for p := capture.Point(0); p < capture.NumPoints; p++ {
		if o.Points.Has(p) {
			inner := p == capture.InnerIn || p == capture.InnerOut
			if _, err := out.interfaceOf(link{p, !inner}); err != nil {
				return nil, err
			}
		}
	}
	return out, out.flush()
}

// interfaceOf returns the number of an interface, which it makes if there is none.
func (w *writer) interfaceOf(l link) (n int, err error) {
	if n, known := w.interfaces[l]; known {
		return n, nil
	}
	about := pcapgo.NgInterface{Name: l.point.String(), Description: descriptions[l.point], LinkType: layers.LinkTypeEthernet}
	if l.ip {
		about.LinkType = layers.LinkTypeRaw
	}
	if w.pcap == nil {
		w.pcap, err = pcapgo.NewNgWriterInterface(w.out, about, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{
			OS: "Linux", Application: "gvtep capture",
			Comment: "Outer IP and UDP headers were made from what gvtep knows of them; the tunnel header and all behind it are as they were.",
		}})
	} else {
		n, err = w.pcap.AddInterface(about)
	}
	w.interfaces[l] = n
	return n, err
}

var descriptions = [capture.NumPoints]string{
	"datagrams from the underlay", "datagrams to the underlay", "frames to tunnel devices", "frames from tunnel devices", "dropped packets",
}

// packet writes a record.
func (w *writer) packet(r *capture.Record) error {
	n, err := w.interfaceOf(link{r.Point, !r.Frame || r.IP})
	if err != nil {
		return err
	}
	data, length := r.Data, r.Length
	if !r.Frame {
		w.packetBuf = append(appendOuter(w.packetBuf[:0], r), r.Data...)
		length += len(w.packetBuf) - len(r.Data)
		data = w.packetBuf
	}
	about := gopacket.CaptureInfo{Timestamp: w.began.Add(time.Duration(r.Time)), CaptureLength: len(data), Length: length, InterfaceIndex: n}
	direction := pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}
	if r.Out {
		direction.Direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	return w.pcap.WritePacketWithOptions(about, data, pcapgo.NgPacketOptions{Comments: w.comments(r), Flags: &direction})
}

// comments says what the bytes do not: the tunnel, and of a drop why.
func (w *writer) comments(r *capture.Record) []string {
	about := fmt.Sprintf("vni=%d", r.VNI)
	if r.Dev != "" {
		about = "dev=" + r.Dev + " " + about
	}
	if r.VLAN != 0 {
		about += fmt.Sprintf(" vlan=%d", r.VLAN)
	}
	if r.Point != capture.Drops {
		return []string{about}
	}
	direction := "in"
	if r.Out {
		direction = "out"
	}
	w.seen[r.Reason] += uint64(r.Count)
	about = fmt.Sprintf("reason=%s direction=%s %s", r.Reason, direction, about)
	if r.Source.Addr().IsValid() && !r.Out {
		about += fmt.Sprintf(" from=%s", r.Source.Addr())
	}
	if r.Dest.IsValid() {
		if r.Out {
			about += fmt.Sprintf(" to=%s", r.Dest)
		} else {
			about += fmt.Sprintf(" port=%d", r.Dest.Port())
		}
	}
	about += fmt.Sprintf(" packets=%d so_far=%d", r.Count, w.seen[r.Reason])
	return []string{about, r.Reason.Explain().What + "; gvtep explain " + r.Reason.String() + " has causes and remedies"}
}

// statistics writes how many packets of each point were lost, if that has changed.
func (w *writer) statistics(lost [capture.NumPoints]uint64) error {
	for l, n := range w.interfaces {
		if lost[l.point] == w.lost[l.point] || l.ip != (l.point != capture.InnerIn && l.point != capture.InnerOut) {
			continue // the second interface of a point says nothing
		}
		err := w.pcap.WriteInterfaceStats(n, pcapgo.NgInterfaceStatistics{
			LastUpdate: time.Now(), PacketsReceived: pcapgo.NgNoValue64, PacketsDropped: lost[l.point],
		})
		if err != nil {
			return err
		}
	}
	w.lost = lost
	return nil
}

func (w *writer) flush() error {
	if w.pcap == nil {
		return nil
	}
	if err := w.pcap.Flush(); err != nil {
		return err
	}
	return w.out.Flush()
}

// Lengths of headers.
const (
	ipv4Len, ipv6Len, udpLen = 20, 40, 8
	protoUDP                 = packet.ProtoUDP
	defaultTTL               = 64
)

// appendOuter appends the outer IP and UDP header of a datagram, as far as they are known: the
// kernel keeps them to itself. What is not known is the unspecified address, port 0, and a TTL of
// 64. There is no UDP checksum, but over IPv6 (RFC 8200 section 8.1) that of a datagram that is whole.
func appendOuter(b []byte, r *capture.Record) []byte {
	source, dest := r.Source.Addr(), r.Dest.Addr()
	ttl := cmp.Or(r.TTL, defaultTTL)
	udp := udpLen + r.Length
	if source.Is6() || !source.IsValid() && dest.Is6() {
		b = binary.BigEndian.AppendUint32(b, 6<<28|uint32(r.TOS)<<20)
		b = binary.BigEndian.AppendUint16(b, uint16(udp))
		b = append(b, protoUDP, ttl)
		from, to := as16(source), as16(dest)
		b = append(append(b, from[:]...), to[:]...)
		return appendUDP(b, r, udp, checksumIPv6(from, to, r, udp))
	}
	at := len(b)
	b = append(b, 0x45, r.TOS)
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4Len+udp))
	b = append(b, 0, 0, 0x40, 0, ttl, protoUDP, 0, 0)
	from, to := as4(source), as4(dest)
	b = append(append(b, from[:]...), to[:]...)
	binary.BigEndian.PutUint16(b[at+10:], ^fold(sum(0, b[at:at+ipv4Len])))
	return appendUDP(b, r, udp, 0)
}

func appendUDP(b []byte, r *capture.Record, length int, checksum uint16) []byte {
	b = binary.BigEndian.AppendUint16(b, r.Source.Port())
	b = binary.BigEndian.AppendUint16(b, r.Dest.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	return binary.BigEndian.AppendUint16(b, checksum)
}

// as16 and as4 take the unspecified address for those that are not known.
func as16(a netip.Addr) [16]byte {
	if !a.IsValid() {
		return [16]byte{}
	}
	return a.As16()
}

func as4(a netip.Addr) [4]byte {
	if a = a.Unmap(); !a.Is4() {
		return [4]byte{}
	}
	return a.As4()
}

// checksumIPv6 is that of a UDP datagram (RFC 8200 section 8.1), 0 if a part of it was not kept.
func checksumIPv6(from, to [16]byte, r *capture.Record, length int) uint16 {
	if len(r.Data) != r.Length {
		return 0
	}
	s := sum(sum(protoUDP+uint32(length), from[:]), to[:])
	s += uint32(r.Source.Port()) + uint32(r.Dest.Port()) + uint32(length)
	return cmp.Or(^fold(sum(s, r.Data)), 0xffff)
}

func sum(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
