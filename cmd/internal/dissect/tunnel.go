package dissect

import (
	"encoding/binary"
	"fmt"
	"strings"

	"gvtep/internal/packet"
	"gvtep/vtep/encap"
	"gvtep/vtep/option"
)

// tunnel walks over a GENEVE or VXLAN header that came to a port (0: not known), and goes on
// inside.
func (d *dissector) tunnel(port uint16) {
	b := d.data[min(d.off, len(d.data)):]
	isVXLAN := port == encap.VXLAN.Port() || port != encap.Geneve.Port() && encap.LooksLikeVXLAN(b)
	switch {
	case isVXLAN:
		d.vxlan()
	case port == encap.Geneve.Port() && encap.LooksLikeVXLAN(b):
		d.field("GENEVE", 0, encap.HeaderLen, "header", "looks like VXLAN", "VXLAN (RFC 7348 section 5) sent to the port of GENEVE")
		d.vxlan()
	default:
		d.geneve()
	}
}

func (d *dissector) vxlan() {
	h := d.header("VXLAN", encap.HeaderLen, "RFC 7348 section 5")
	if h == nil {
		return
	}
	vni, _ := encap.VXLAN.Peek(h)
	d.say("VXLAN vni %d:", vni)
	d.field("VXLAN", 0, 1, "flags", fmt.Sprintf("0x%02x", h[0]), when(h[0]&8 == 0, "the I flag must be 1 for a VNI (RFC 7348 section 5)"))
	d.field("VXLAN", 1, 3, "reserved", fmt.Sprintf("%x", h[1:4]), when(h[1]|h[2]|h[3] != 0, "must be 0 (RFC 7348 section 5)"))
	d.field("VXLAN", 4, 3, "VNI", fmt.Sprint(vni), "")
	d.field("VXLAN", 7, 1, "reserved", fmt.Sprintf("%02x", h[7]), when(h[7] != 0, "must be 0 (RFC 7348 section 5)"))
	d.off += encap.HeaderLen
	d.inner = true
	d.ethernet()
}

func (d *dissector) geneve() {
	h := d.header("GENEVE", encap.HeaderLen, "RFC 8926 section 3.4")
	if h == nil {
		return
	}
	const layer = "GENEVE"
	vni, protocol := encap.Geneve.Peek(h)
	options := int(h[0]&0x3f) * 4
	said := fmt.Sprintf("GENEVE vni %d", vni)
	area := d.data[min(d.off+encap.HeaderLen, len(d.data)):min(d.off+encap.HeaderLen+options, len(d.data))]
	if all := d.names.Describe(area); len(all) > 0 {
		said += " options " + strings.Join(all, ",")
	}
	d.say("%s:", said)
	d.field(layer, 0, 1, "version, options length", fmt.Sprintf("%d, %d bytes", h[0]>>6, options), geneveFault(h, d.end-d.off))
	d.field(layer, 1, 1, "flags", fmt.Sprintf("O %d, C %d", h[1]>>7, h[1]>>6&1), when(h[1]&0x3f != 0, "the other six bits must be 0 (RFC 8926 section 3.4)"))
	if h[1]&0x80 != 0 {
		d.field(layer, 1, 1, "O", "control packet", "payload of a control packet is not forwarded (RFC 8926 section 3.4)")
	}
	known := protocol == packet.EtherTypeEthernet || protocol == packet.EtherTypeIPv4 || protocol == packet.EtherTypeIPv6
	d.field(layer, 2, 2, "protocol type", typeName(protocol), when(!known, "neither Ethernet nor IP: endpoints drop it (RFC 8926 section 3.4)"))
	d.field(layer, 4, 3, "VNI", fmt.Sprint(vni), "")
	d.field(layer, 7, 1, "reserved", fmt.Sprintf("%02x", h[7]), when(h[7] != 0, "must be 0 (RFC 8926 section 3.4)"))
	d.off += encap.HeaderLen
	if h[0]>>6 != 0 || !d.options(options, h[1]&0x40 != 0) {
		d.rest("bytes")
		return
	}
	d.inner = true
	switch protocol {
	case packet.EtherTypeEthernet:
		d.ethernet()
	case packet.EtherTypeIPv4, packet.EtherTypeIPv6:
		d.ip()
	default:
		d.rest(typeName(protocol))
	}
}

func geneveFault(h []byte, there int) string {
	switch options := int(h[0]&0x3f) * 4; {
	case h[0]>>6 != 0:
		return "the version must be 0 (RFC 8926 section 3.4)"
	case encap.HeaderLen+options > there:
		return fmt.Sprintf("only %d bytes are there for options (RFC 8926 section 3.4)", there-encap.HeaderLen)
	}
	return ""
}

// options walks over the option area of that many bytes, and reports whether a payload can be
// told behind it.
func (d *dissector) options(length int, critical bool) bool {
	const layer = "GENEVE option"
	if d.off+length > min(d.end, len(d.data)) {
		return false
	}
	end, someCritical := d.off+length, false
	for d.off < end {
		o := d.data[d.off:end] // at least 4 bytes: all lengths are multiples of that
		class, size := binary.BigEndian.Uint16(o), int(o[3]&31)*4
		someCritical = someCritical || o[2]&0x80 != 0
		d.field(layer, 0, 2, "class", fmt.Sprintf("0x%04x", class), "")
		kind, named := d.names.Find(option.ID{Class: class, Type: o[2]})
		d.field(layer, 2, 1, "type", fmt.Sprintf("0x%02x%s%s", o[2]&0x7f, when(o[2]&0x80 != 0, ", critical"), when(named, ", "+kind.Name)), "")
		fault := when(o[3]>>5 != 0, "the three bits before it must be 0 (RFC 8926 section 3.5)")
		if 4+size > len(o) {
			fault = "runs over the end of the options (RFC 8926 section 3.5)"
		}
		if fault == "" && named && kind.Len != option.Variable && kind.Len != size {
			fault = fmt.Sprintf("%s has %d bytes (RFC 8926 section 3.5.1)", kind.Name, kind.Len)
		}
		d.field(layer, 3, 1, "length", fmt.Sprintf("%d bytes", size), fault)
		if 4+size > len(o) {
			d.off = end
			return false
		}
		if size > 0 {
			d.field(layer, 4, size, "data", kind.Text(o[4:4+size]), "")
		}
		d.off += 4 + size
	}
	if someCritical != critical {
		d.fields = append(d.fields, Field{
			Offset: d.off, Layer: "GENEVE", Name: "C flag", Value: fmt.Sprint(critical),
			Fault: "it must be 1 if an option is critical, and only then (RFC 8926 section 3.4)",
		})
	}
	return true
}

// Guess says what bytes begin with that come without a word about it.
func Guess(data []byte) Link {
	d := &dissector{data: data}
	switch {
	case len(data) >= 20 && data[0]>>4 == 4 && data[0]&15 >= 5 && checksum(data[:min(int(data[0]&15)*4, len(data))]) == 0:
		return IP
	case len(data) >= 40 && data[0]>>4 == 6 && int(binary.BigEndian.Uint16(data[4:]))+40 == len(data):
		return IP
	case d.isTunnel(0):
		return Tunnel
	}
	return Ethernet
}
