package dissect

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"gvtep/vtep/option"
)

const (
	geneve = "00 00 6558 000064 00"
	inner  = "020000000201 020000000202 0800"
	udp    = "45000021 00000000 401166ca 0a000001 0a000002 04d20050 000d0000 68656c6c6f"
)

func bytesOf(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDissect: what packets are, on one line, and what is wrong with them, with its section.
func TestDissect(t *testing.T) {
	const eth = "02:00:00:00:02:02 > 02:00:00:00:02:01"
	for _, tt := range []struct {
		name, bytes string
		link        Link
		cut         int // bytes that were not captured
		summary     string
		faults      []string
	}{
		{"udp", geneve + inner + udp, Tunnel, 0, "GENEVE vni 100: " + eth + " 10.0.0.1:1234 > 10.0.0.2:80 UDP length 5", nil},
		{"not whole", geneve + inner + udp[:len(udp)-10], Tunnel, 5, "GENEVE vni 100: " + eth + " 10.0.0.1:1234 > 10.0.0.2:80 UDP length 5", nil},
		{"vxlan", "08 000000 000064 00" + inner + udp, Tunnel, 0, "VXLAN vni 100: " + eth + " 10.0.0.1:1234 > 10.0.0.2:80 UDP length 5", nil},
		{"vlan", inner[:len(inner)-4] + "8100 200c 0800" + udp, Ethernet, 0, eth + " vlan 12 10.0.0.1:1234 > 10.0.0.2:80 UDP length 5", nil},
		{"ip in geneve", "00 00 0800 000064 00" + udp, Tunnel, 0, "GENEVE vni 100: 10.0.0.1:1234 > 10.0.0.2:80 UDP length 5", nil},
		{"arp", "ffffffffffff 020000000202 0806 0001080006040001 020000000202 0a000002 000000000000 0a000001", Ethernet, 0,
			"02:00:00:00:02:02 > ff:ff:ff:ff:ff:ff ARP who has 10.0.0.1 tell 10.0.0.2", nil},
		{"icmp6", "6000000000083aff fd000000000000000000000000000001 fd000000000000000000000000000002 8000000000000000", IP, 0, "fd00::1 > fd00::2 ICMPv6 echo request", nil},
		{"tcp", "45000028 00000000 400666ce 0a000001 0a000002 04d20050 00000000 00000000 50120000 00000000", IP, 0, "10.0.0.1:1234 > 10.0.0.2:80 TCP SYN ACK length 0", nil},

		{"version", "40 00 6558 000064 00" + inner + udp, Tunnel, 0, "", []string{"RFC 8926 section 3.4"}},
		{"flags", "00 01 6558 000064 00" + inner + udp, Tunnel, 0, "", []string{"RFC 8926 section 3.4"}},
		{"control", "00 80 6558 000064 00" + inner + udp, Tunnel, 0, "", []string{"RFC 8926 section 3.4"}},
		{"reserved", "00 00 6558 000064 01" + inner + udp, Tunnel, 0, "", []string{"RFC 8926 section 3.4"}},
		{"options cut off", "02 00 6558 000064 00 0102", Tunnel, 0, "", []string{"only 2 bytes are there for options (RFC 8926 section 3.4)"}},
		{"option too long", "01 00 6558 000064 00 01020302" + inner + udp, Tunnel, 0, "", []string{"RFC 8926 section 3.5"}},
		{"critical option", "01 00 6558 000064 00 01028300" + inner + udp, Tunnel, 0, "", []string{"RFC 8926 section 3.4"}},
		{"critical and said so", "01 40 6558 000064 00 01028300" + inner + udp, Tunnel, 0, "", nil},
		{"options", "05 40 6558 000064 00 01028001 00010002 ff010102 0000004d00000000" + inner + udp, Tunnel, 0,
			"GENEVE vni 100 options ovn.ports:00010002,ff01:01:0000004d00000000: " + eth + " 10.0.0.1:1234 > 10.0.0.2:80 UDP length 5", nil},
		{"fixed length", "03 40 6558 000064 00 01028002 0001000200010002" + inner + udp, Tunnel, 0, "", []string{"ovn.ports has 4 bytes (RFC 8926 section 3.5.1)"}},
		{"no I flag", "45000035 00000000 4011f6b4 c0000202 c0000201 c00012b5 00210000 00 000000 000064 00" + inner + "6800 00", IP, 0, "", []string{"RFC 7348 section 5", "RFC 8200"}},
		{"vxlan to geneve", "4500002a 00000000 4011f6bf c0000202 c0000201 c00017c1 00160000 08 000000 000064 00 020000000201", IP, 0, "", []string{"VXLAN (RFC 7348 section 5) sent to the port of GENEVE", "IEEE 802.3"}},
		{"checksum", "45000021 00000000 401166cb 0a000001 0a000002 04d20050 000d0000 68656c6c6f", IP, 0, "", []string{"RFC 791 section 3.1"}},
		{"udp too long", "45000021 00000000 401166ca 0a000001 0a000002 04d20050 00ff0000 68656c6c6f", IP, 0, "", []string{"RFC 768"}},
		{"source group", "020000000201 030000000202 0800" + udp, Ethernet, 0, "", []string{"IEEE 802.3 section 3.2.3"}},
		{"nothing", "", Ethernet, 0, "", []string{"IEEE 802.3"}},
	} {
		data := bytesOf(t, tt.bytes)
		p := Dissect(data, len(data)+tt.cut, tt.link, option.Default())
		if tt.summary != "" && p.Summary != tt.summary {
			t.Errorf("%s: %q, want %q", tt.name, p.Summary, tt.summary)
		}
		var faults []string
		for _, f := range p.Fields {
			if f.Fault != "" {
				faults = append(faults, f.Fault)
			}
		}
		slices.Sort(tt.faults)
		if slices.Sort(faults); len(faults) != len(tt.faults) {
			t.Errorf("%s: faults %q, want %q", tt.name, faults, tt.faults)
			continue
		}
		for _, want := range tt.faults {
			if !slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, want) }) {
				t.Errorf("%s: faults %q, want %q", tt.name, faults, want)
			}
		}
	}
}

func TestGuess(t *testing.T) {
	for s, want := range map[string]Link{geneve + inner + udp: Tunnel, "08 000000 000064 00" + inner: Tunnel, inner + udp: Ethernet, udp: IP, "": Ethernet} {
		if got := Guess(bytesOf(t, s)); got != want {
			t.Errorf("%s begins with %d, want %d", s, got, want)
		}
	}
}

// FuzzDissect: any bytes are taken, and every field lies inside them.
func FuzzDissect(f *testing.F) {
	for _, s := range []string{geneve + inner + udp, inner + udp, udp, "01 40 6558 000064 00 01028300" + inner} {
		b, _ := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		f.Add(b, len(b), byte(Tunnel))
	}
	f.Fuzz(func(t *testing.T, b []byte, length int, link byte) {
		for _, f := range Dissect(b, length, Link(link%3), option.Default()).Fields {
			if f.Offset < 0 || f.Length < 0 || f.Offset+f.Length > len(b) {
				t.Errorf("%+v is outside of %d bytes", f, len(b))
			}
		}
	})
}
