// Package option is what is known about GENEVE options (RFC 8926 section 3.5) and what is
// done with them: their names, the sets that are sent, and the rules for those that arrive.
// It is pure: no sockets, no clocks.
package option

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ID tells one kind of options from another.
type ID struct {
	// Class is from the IANA registry; 0xff00 to 0xffff are for experiments.
	Class uint16
	// Type tells the options of a class apart. Its top bit is the critical bit: a receiver that
	// does not know the option must drop the packet.
	Type uint8
}

// Critical reports whether a receiver must know the option.
func (id ID) Critical() bool { return id.Type&0x80 != 0 }

// String writes it as iproute2 does: CLASS:TYPE, in hexadecimal.
func (id ID) String() string { return fmt.Sprintf("%04x:%02x", id.Class, id.Type) }

// Format is how the data of an option is written.
type Format string

// The formats.
const (
	Hex   Format = "hex"   // two digits for each byte
	Uint  Format = "uint"  // one number, big-endian
	MAC   Format = "mac"   // an Ethernet address, and zeros behind it
	IPv4  Format = "ipv4"  // an address, and zeros behind it
	Label Format = "label" // text, and zeros behind it
)

// Formats are all formats.
func Formats() []string {
	return []string{string(Hex), string(Uint), string(MAC), string(IPv4), string(Label)}
}

// Variable as the length of a kind says that there is no fixed one.
const Variable = -1

// Kind is what is known about one kind of options.
type Kind struct {
	ID
	Name   string // such as "ovn.ports"
	Len    int    // of the data, in bytes, a multiple of 4; Variable: it differs
	Format Format
	// Known says that packets with the option are let in although it is critical.
	Known bool
}

// Registry are the kinds that are known. It is never changed once made. A nil one knows none.
type Registry struct {
	byID   map[ID]Kind
	byName map[string]Kind
	own    []Kind // that were given beside the built-in ones, in that order
	ownIDs map[ID]Kind
}

// Builtin are the kinds that have an owner whose documents or sources say what they are.
func Builtin() []Kind {
	return []Kind{
		// include/net/geneve.h of Linux: GENEVE_OPT_GRO_HINT_TYPE.
		{ID: ID{0x0100, 0x01}, Name: "linux.gro_hint", Len: 4, Format: Hex},
		// ovn-architecture(7): ingress port in 15 bits, egress port in 16.
		{ID: ID{0x0102, 0x80}, Name: "ovn.ports", Len: 4, Format: Hex},
		// AWS, "Gateway Load Balancer: GENEVE encapsulation".
		{ID: ID{0x0108, 0x01}, Name: "aws.endpoint", Len: 8, Format: Hex},
		{ID: ID{0x0108, 0x02}, Name: "aws.attachment", Len: 8, Format: Hex},
		{ID: ID{0x0108, 0x03}, Name: "aws.cookie", Len: 4, Format: Hex},
		// bpf/lib/nodeport.h of Cilium: direct server return; IPv4 has 8 bytes, IPv6 20.
		{ID: ID{0x014b, 0x81}, Name: "cilium.dsr", Len: Variable, Format: Hex},
		// lib/oxide-vpc of OPTE: the packet is external.
		{ID: ID{0x0129, 0x00}, Name: "oxide.external", Len: 0, Format: Hex},
		// Mizar's trn_datamodel.h. Its class 0x0111 is written without a byte swap. An
		// option without an endpoint has another length than one with.
		{ID: ID{0x1101, 0x48}, Name: "mizar.rts", Len: Variable, Format: Hex},
		{ID: ID{0x1101, 0x49}, Name: "mizar.scaled_endpoint", Len: Variable, Format: Hex},
		{ID: ID{0x1101, 0x50}, Name: "mizar.pod_label", Len: Variable, Format: Hex},
		{ID: ID{0x1101, 0x51}, Name: "mizar.namespace_label", Len: Variable, Format: Hex},
	}
}

// classes are the names of classes without kinds of their own here (IANA, "Geneve Option
// Class").
var classes = map[uint16]string{0x0100: "linux", 0x0101: "openvswitch", 0x0102: "ovn", 0x0108: "aws", 0x014b: "cilium", 0x0129: "oxide", 0x1101: "mizar"}

// NewRegistry returns a registry of the built-in kinds and of others, which take the place of
// built-in ones. An error is a *KindError.
func NewRegistry(more []Kind) (*Registry, error) {
	r := &Registry{byID: map[ID]Kind{}, byName: map[string]Kind{}, ownIDs: map[ID]Kind{}}
	for _, k := range Builtin() {
		r.byID[k.ID], r.byName[k.Name] = k, k
	}
	for i, k := range more {
		if text := r.wrong(k); text != "" {
			return nil, &KindError{i, text}
		}
		delete(r.byName, r.byID[k.ID].Name)
		r.own, r.ownIDs[k.ID] = append(r.own, k), k
		r.byID[k.ID], r.byName[k.Name] = k, k
	}
	return r, nil
}

// KindError is what is wrong with one of several kinds.
type KindError struct {
	Nth  int
	Text string
}

func (e *KindError) Error() string { return e.Text }

// wrong says why a kind cannot be added; "": it can.
func (r *Registry) wrong(k Kind) string {
	before, given := r.ownIDs[k.ID]
	other, taken := r.byName[k.Name]
	switch {
	case !ValidName(k.Name):
		return fmt.Sprintf("option %s: name %q: %s", k.ID, k.Name, WantName)
	case given:
		return fmt.Sprintf("option %s: %s is given twice, also as %s", k.Name, k.ID, before.Name)
	case taken && other.ID != k.ID:
		return fmt.Sprintf("option %s: %s has that name", k.Name, other.ID)
	case k.Known && !k.Critical():
		return fmt.Sprintf("option %s: %s is not critical, so that it is let in anyway: leave out known", k.Name, k.ID)
	case k.Len != Variable && (k.Len < 0 || k.Len > 124 || k.Len%4 != 0):
		return fmt.Sprintf("option %s: length %d: want 0 to 124, a multiple of 4", k.Name, k.Len)
	case !slices.Contains(Formats(), string(k.Format)):
		return fmt.Sprintf("option %s: format %q: want %s", k.Name, k.Format, strings.Join(Formats(), ", "))
	case k.Len != Variable && k.Len < k.Format.least():
		return fmt.Sprintf("option %s: length %d does not fit format %s, which needs %d", k.Name, k.Len, k.Format, k.Format.least())
	}
	return ""
}

// least is how long the data of an option of this format is at least.
func (f Format) least() int {
	switch f {
	case MAC:
		return 8
	case IPv4, Uint:
		return 4
	}
	return 0
}

// Default returns a registry of the built-in kinds.
func Default() *Registry {
	r, err := NewRegistry(nil)
	if err != nil {
		panic(err) // TestBuiltin
	}
	return r
}

// WantName is what a name of an option has to be.
const WantName = "want letters, digits, dots and underscores, the first a letter"

// ValidName reports whether s can be the name of an option.
func ValidName(s string) bool {
	for i, c := range s {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c != '.' && c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != ""
}

// Find returns what is known about a kind of options.
func (r *Registry) Find(id ID) (Kind, bool) {
	if r == nil {
		return Kind{}, false
	}
	k, ok := r.byID[id]
	return k, ok
}

// Own are the kinds that are not built in, in the order in which they were given.
func (r *Registry) Own() []Kind {
	if r == nil {
		return nil
	}
	return r.own
}

// IsOwn reports whether a kind is not built in.
func (r *Registry) IsOwn(id ID) bool {
	_, own := r.ownIDs[id]
	return own
}

// Equal reports whether two registries know the same.
func (r *Registry) Equal(o *Registry) bool { return slices.Equal(r.Own(), o.Own()) }

// Name is the name of a kind or, if that is unknown, CLASS:TYPE.
func (r *Registry) Name(id ID) string {
	if k, ok := r.Find(id); ok {
		return k.Name
	}
	return id.String()
}

// ClassName is the name of a class's owner, "" if that is unknown.
func (r *Registry) ClassName(class uint16) string {
	if name := classes[class]; name != "" {
		return name
	}
	var names []string
	for id, k := range r.byID {
		if owner, _, found := strings.Cut(k.Name, "."); found && id.Class == class {
			names = append(names, owner)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return slices.Min(names)
}

// Kinds are all that are known, in the order of their IDs.
func (r *Registry) Kinds() []Kind {
	all := make([]Kind, 0, len(r.byID))
	for _, k := range r.byID {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b Kind) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Type, b.Type))
	})
	return all
}

// ID reads CLASS:TYPE, in hexadecimal with or without 0x, or a name.
func (r *Registry) ID(text string) (ID, error) {
	if k, ok := r.byName[text]; ok {
		return k.ID, nil
	}
	id, err := ParseID(text)
	if err != nil {
		return ID{}, fmt.Errorf("%w, or a name, such as ovn.ports", err)
	}
	return id, nil
}

// ParseID reads CLASS:TYPE, in hexadecimal with or without 0x.
func ParseID(text string) (ID, error) {
	class, typ, ok := strings.Cut(text, ":")
	c, err := parseHex(class, 16)
	t, err2 := parseHex(typ, 8)
	if !ok || err != nil || err2 != nil {
		return ID{}, errors.New("want CLASS:TYPE in hexadecimal, such as 0102:80")
	}
	return ID{uint16(c), uint8(t)}, nil
}

func parseHex(s string, bits int) (uint64, error) {
	return strconv.ParseUint(strings.TrimPrefix(strings.ToLower(s), "0x"), 16, bits)
}

// data reads the data of an option as its kind is written, or in hexadecimal.
func (r *Registry) data(id ID, text string) ([]byte, error) {
	k, known := r.byID[id]
	if !known {
		k = Kind{ID: id, Len: Variable, Format: Hex}
	}
	b, err := k.Format.parse(text, k.Len)
	switch {
	case err != nil:
		return nil, err
	case known && k.Len != Variable && len(b) != k.Len:
		return nil, fmt.Errorf("%d bytes of data: %s has %d", len(b), k.Name, k.Len)
	case len(b)%4 != 0:
		return nil, fmt.Errorf("%d bytes of data: want a multiple of 4", len(b))
	case len(b) > 124:
		return nil, fmt.Errorf("%d bytes of data: want 124 at most", len(b))
	}
	return b, nil
}

// parse reads data of n bytes, or of as many as it takes.
func (f Format) parse(text string, n int) (b []byte, err error) {
	pad := func(b []byte) []byte {
		for len(b)%4 != 0 || len(b) < n {
			b = append(b, 0)
		}
		return b
	}
	hexadecimal := strings.HasPrefix(text, "0x")
	switch {
	case f == Uint && !hexadecimal:
		v, err := strconv.ParseUint(text, 10, 64)
		if n == Variable {
			n = 4
		}
		if err != nil || n < 8 && v>>(8*max(n, 0)) != 0 {
			return nil, fmt.Errorf("want a number that %d bytes hold", n)
		}
		b = make([]byte, max(n, 8))
		binary.BigEndian.PutUint64(b[len(b)-8:], v)
		return b[len(b)-n:], nil
	case f == MAC && !hexadecimal:
		a, err := net.ParseMAC(text)
		if err != nil || len(a) != 6 {
			return nil, fmt.Errorf("want an Ethernet address such as 02:00:00:00:00:01")
		}
		return pad(a), nil
	case f == IPv4 && !hexadecimal:
		a, err := netip.ParseAddr(text)
		if err != nil || !a.Is4() {
			return nil, fmt.Errorf("want an IPv4 address such as 10.0.0.1")
		}
		return pad(a.AsSlice()), nil
	case f == Label && !hexadecimal:
		return pad([]byte(text)), nil
	}
	if b, err = hex.DecodeString(strings.TrimPrefix(text, "0x")); err != nil {
		return nil, fmt.Errorf("want data in hexadecimal, such as 00010002")
	}
	return b, nil
}

// Text writes data of the kind; the zero kind, in hexadecimal.
func (k Kind) Text(data []byte) string {
	if k.Format == "" {
		k.Format = Hex
	}
	return k.Format.text(data)
}

// text writes data.
func (f Format) text(data []byte) string {
	zeros := func(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }
	switch {
	case f == Uint && len(data) > 0 && len(data) <= 8:
		var v uint64
		for _, c := range data {
			v = v<<8 | uint64(c)
		}
		return strconv.FormatUint(v, 10)
	case f == MAC && len(data) >= 6 && zeros(data[6:]):
		return net.HardwareAddr(data[:6]).String()
	case f == IPv4 && len(data) >= 4 && zeros(data[4:]):
		return netip.AddrFrom4([4]byte(data)).String()
	case f == Label:
		text := strings.TrimRight(string(data), "\x00")
		if printable(text) && (len(text)+3)/4*4 == len(data) {
			return text
		}
	case f == Hex:
		return hex.EncodeToString(data)
	}
	return "0x" + hex.EncodeToString(data)
}

func printable(s string) bool {
	for _, c := range s {
		if c <= ' ' || c > '~' || c == ',' || c == ':' {
			return false
		}
	}
	return s != "" && !strings.HasPrefix(s, "0x") && !strings.HasPrefix(s, "@")
}
