package capture

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
)

// TestRing: one writer and one reader side by side; each record arrives whole and in order, or is
// counted as lost.
func TestRing(t *testing.T) {
	const total = 200_000
	tap := New(Options{Buffer: MinBuffer, Snaplen: 3000}, 1, time.Now())
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		defer close(done)
		var h packet.Headers
		data := make([]byte, 4000)
		for i := range total {
			n := 8 + i*37%3990
			for j := range n {
				data[j] = byte(i)
			}
			binary.BigEndian.PutUint64(data, uint64(i))
			tap.Add(0, &Record{Time: int64(i), Point: InnerIn}, data[:n/2], data[n/2:n], nil, &h)
		}
	})
	read, last := 0, int64(-1)
	for ended := false; ; {
		all := true
		tap.Read(func(r *Record) bool {
			read++
			all = false
			n := 8 + int(r.Time)*37%3990
			want := bytes.Repeat([]byte{byte(r.Time)}, n)
			binary.BigEndian.PutUint64(want, uint64(r.Time))
			if r.Time <= last || r.Length != n || !bytes.Equal(r.Data, want[:min(n, 3000)]) {
				t.Fatalf("record %d behind %d: %d bytes of %d, want %d", r.Time, last, len(r.Data), r.Length, n)
			}
			last = r.Time
			return true
		})
		if all && ended {
			break
		}
		select {
		case <-done:
			ended = true
		default:
		}
	}
	writer.Wait()
	if lost := tap.Lost(); read == 0 || uint64(read)+lost[InnerIn] != total {
		t.Errorf("%d read and %d lost, want %d together", read, lost[InnerIn], total)
	}
}

// TestFull: what does not fit is not copied, and there is room again once something was read.
func TestFull(t *testing.T) {
	tap := New(Options{Buffer: MinBuffer, Snaplen: MaxSnaplen}, 1, time.Now())
	var h packet.Headers
	add := func(n int) { tap.Add(0, &Record{Point: OuterIn}, make([]byte, n), nil, nil, &h) }
	add(MaxSnaplen)
	add(MinBuffer - MaxSnaplen)
	add(1)
	if lost := tap.Lost()[OuterIn]; lost != 1 {
		t.Errorf("%d lost, want 1", lost)
	}
	tap.Read(func(*Record) bool { return true })
	add(1)
	for range 5000 {
		add(0)
	}
	n := 0
	tap.Read(func(*Record) bool { n++; return true })
	if lost := tap.Lost()[OuterIn]; n != len(tap.rings[0].slots) || lost != uint64(1+5001-n) {
		t.Errorf("%d read and %d lost, want %d and the rest", n, lost, len(tap.rings[0].slots))
	}
}

// TestRate: no more than so many packets in a second of the clock.
func TestRate(t *testing.T) {
	tap := New(Options{Buffer: MinBuffer, Snaplen: 64, Rate: 10}, 2, time.Now())
	var h packet.Headers
	for i := range 100 {
		tap.Add(i%2, &Record{Time: int64(i) * 2e7, Point: Drops}, []byte{1}, nil, nil, &h) // two seconds
	}
	n, last := 0, int64(0)
	tap.Read(func(r *Record) bool {
		if n++; r.Time < last {
			t.Errorf("%d behind %d", r.Time, last)
		}
		last = r.Time
		return true
	})
	if n != 20 || tap.Lost()[Drops] != 80 {
		t.Errorf("%d copied, %d not; want 20 and 80", n, tap.Lost()[Drops])
	}
}

func bytesOf(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFilter(t *testing.T) {
	tcp := bytesOf(t, "020000000201 020000000202 8100 000c 0800 4500002800000000400600000a0000010a000002 04d20050 00000000 00000000 50020000 00000000")
	arp := bytesOf(t, "ffffffffffff 020000000202 0806 0001080006040001 020000000202 0a000001 000000000000 0a000009")
	icmp6 := bytesOf(t, "6000000000083aff fd000000000000000000000000000001 fd000000000000000000000000000002 8000000000000000")
	outer := Record{VNI: 100, Source: netip.MustParseAddrPort("192.0.2.2:0"), Dest: netip.MustParseAddrPort("192.0.2.1:6081")}
	drop, trunk, l3 := outer, outer, outer
	drop.Point, drop.Reason = Drops, count.DropLocked
	trunk.VLAN = 7
	l3.IP = true
	for _, tt := range []struct {
		filter string
		r      Record
		frame  []byte
		want   bool
	}{
		{"", outer, tcp, true},
		{"host 10.0.0.1", outer, tcp, true},
		{"host 10.0.0.2", outer, tcp, true},
		{"host 10.0.0.3", outer, tcp, false},
		{"host 10.0.0.0/8 host 1.1.1.1", outer, tcp, true},
		{"host 192.0.2.2", outer, nil, true},
		{"host 192.0.2.0/31", outer, nil, true},
		{"host 10.0.0.9", outer, arp, true},
		{"host 10.0.0.2", outer, arp, false},
		{"host fd00::2", l3, icmp6, true},
		{"host fd00::/120", l3, icmp6, true},
		{"host fd00::3", l3, icmp6, false},
		{"not host 10.0.0.1", outer, tcp, false},
		{"vni 100", outer, nil, true},
		{"vni 101", outer, nil, false},
		{"vni 101 vni 100", outer, nil, true},
		{"not vni 101 not vni 102", outer, nil, true},
		{"mac 02:00:00:00:02:01", outer, tcp, true},
		{"mac 02:00:00:00:02:02", outer, tcp, true},
		{"mac 02:00:00:00:02:03", outer, tcp, false},
		{"mac 60:00:00:00:00:08", l3, icmp6, false},
		{"vlan 12", outer, tcp, true},
		{"vlan 0", outer, arp, true},
		{"vlan 0", outer, tcp, false},
		{"vlan 0", outer, nil, false},
		{"vlan 7", trunk, arp, true},
		{"proto tcp", outer, tcp, true},
		{"proto 6", outer, tcp, true},
		{"proto udp", outer, tcp, false},
		{"proto ip", outer, tcp, true},
		{"proto ip6", outer, tcp, false},
		{"proto ip", l3, icmp6, false},
		{"proto ip6", l3, icmp6, true},
		{"proto icmp6", l3, icmp6, true},
		{"proto arp", outer, arp, true},
		{"proto arp", l3, icmp6, false},
		{"proto arp", outer, nil, false},
		{"port 80", outer, tcp, true},
		{"port 1234", outer, tcp, true},
		{"port 81", outer, tcp, false},
		{"port 80", outer, arp, false},
		{"port 80", outer, nil, false},
		{"not port 80", outer, arp, true},
		{"reason locked", drop, nil, true},
		{"reason locked", outer, nil, false},
		{"reason short", drop, nil, false},
		{"not reason locked", drop, nil, false},
		{"vni 100 port 80 not host 10.0.0.9", outer, tcp, true},
		{"vni 100 port 81", outer, tcp, false},
	} {
		f, err := ParseFilter(strings.Fields(tt.filter))
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Match(&tt.r, tt.frame, new(packet.Headers)); got != tt.want {
			t.Errorf("%q: %v, want %v", tt.filter, got, tt.want)
		}
	}
	for _, s := range []string{"hosts 1.1.1.1", "host", "host x", "not", "vni 16777216", "vlan 4095", "port 65536", "proto 256", "proto tpc", "mac 02:00", "mac 02:00:00:00:00:00:00:01", "reason lost"} {
		if _, err := ParseFilter(strings.Fields(s)); err == nil || !strings.HasPrefix(err.Error(), "filter: ") {
			t.Errorf("%q: %v, want it refused", s, err)
		}
	}
}
