package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"gvtep/fdb"
	"gvtep/internal/packet"
)

// largeTunnel has as many peers, and entries behind them, as are asked for.
func largeTunnel(peers, entries int) Tunnel {
	t := defaults()
	t.Device.Name, t.VNI, t.NoVNI = "gnv0", 1, false
	for i := range peers {
		t.Peers = append(t.Peers, Peer{Remote: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).Next()})
	}
	for i := range entries {
		t.Entries = append(t.Entries, Entry{
			MAC:    packet.MAC{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)},
			Remote: t.Peers[i%peers].Remote, State: fdb.Permanent,
		})
	}
	return t
}

var sizes = []int{1000, 10_000, 100_000, 1_000_000}

// BenchmarkCheck checks a tunnel with many entries: of a trunk, with the VLANs
// by their VNI, which takes more.
func BenchmarkCheck(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t := largeTunnel(min(n, 10_000), n)
			if err := AddVLAN(&t, VLAN{First: 1, Last: 4094, VNI: 10_000}); err != nil {
				b.Fatal(err)
			}
			for i := range t.Entries {
				t.Entries[i].SrcVNI, t.Entries[i].HasSrcVNI = packet.VNI(10_000+i%4094), true
			}
			for b.Loop() {
				again := t
				if err := completed(&again); err != nil {
					b.Fatal(err)
				}
			}
			perEntry(b, n)
		})
	}
}

// BenchmarkLoadEntries reads a file with as many entries.
func BenchmarkLoadEntries(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			cfg := defaultConfig()
			cfg.Tunnels = []Tunnel{largeTunnel(min(n, 10_000), n)}
			path := filepath.Join(b.TempDir(), "large.toml")
			if err := os.WriteFile(path, []byte(Print(cfg, false)), 0o644); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := Load(path); err != nil {
					b.Fatal(err)
				}
			}
			perEntry(b, n)
		})
	}
}

func perEntry(b *testing.B, n int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/entry")
}

// TestGrowth: what is checked takes memory by its number, not by its square. Bytes
// are counted, as a time would depend on the machine; a list that is copied for
// each of its values shows in them.
func TestGrowth(t *testing.T) {
	lines := func(n int, format string, args func(i int) []any) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, args(i)...)
		}
		return b.String()
	}
	quads := func(i int) []any { return []any{i >> 8 & 255, i & 255} }
	const head = "[[tunnel]]\nname = \"gnv0\"\nid = 9000\n"
	for name, text := range map[string]func(n int) string{
		"entries": func(n int) string {
			return head + "remote = \"192.0.2.1\"\n" + lines(n, "[[tunnel.fdb]]\nlladdr = \"02:00:00:00:%02x:%02x\"\ndst = \"192.0.2.1\"\n", quads)
		},
		"entries of a trunk": func(n int) string {
			return head + "remote = \"192.0.2.1\"\nvlan = \"1-4000:1-4000\"\n" + lines(n, "[[tunnel.fdb]]\nlladdr = \"02:00:00:00:%02x:%02x\"\nsrc_vni = 77\ndst = \"192.0.2.1\"\n", quads)
		},
		"peers": func(n int) string {
			return head + "remote = [" + lines(n, "\"10.1.%d.%d\",", quads) + "\"192.0.2.1\"]\n"
		},
		"accept": func(n int) string {
			return head + "accept = [" + lines(n, "\"10.1.%d.%d\",", quads) + "\"192.0.2.1\"]\n"
		},
		"addresses": func(n int) string {
			return head + "remote = \"192.0.2.1\"\naddress = [" + lines(n, "\"10.1.%d.%d/8\",", quads) + "\"192.0.2.1/24\"]\n"
		},
		"neighbours": func(n int) string {
			return head + "remote = \"192.0.2.1\"\nneigh_suppress = \"on\"\nneigh = [" + lines(n, "\"10.1.%d.%d=02:00:00:00:00:01\",", quads) + "\"192.0.2.9=02:00:00:00:00:01\"]\n"
		},
		"routes": func(n int) string {
			return head + "mode = \"l3\"\n[[tunnel.peer]]\nremote = \"192.0.2.1\"\nroutes = [" + lines(n, "\"10.1.%d.%d\",", quads) + "\"192.0.2.1\"]\n"
		},
		"tunnels": func(n int) string {
			return lines(n, "[[tunnel]]\nname = \"g%d\"\nid = 1\nremote = \"192.0.2.1\"\ndstport = %d\n", func(i int) []any { return []any{i, i + 1} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			cost := func(n int) float64 {
				file := text(n)
				cfg, err := parse("large.toml", file)
				if err != nil {
					t.Fatal(err)
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				if _, err := parse("large.toml", file); err != nil {
					t.Fatal(err)
				}
				Diff(cfg, cfg)
				runtime.ReadMemStats(&after)
				return float64(after.TotalAlloc - before.TotalAlloc)
			}
			if few, many := cost(1000), cost(8000); many > 12*few {
				t.Errorf("8 times as many take %.0f times the memory, from %.0f to %.0f bytes; want no more than by their number", many/few, few, many)
			}
		})
	}
}

// TestCostOfAnEntry: an entry of a file takes hardly an allocation and a bounded number of bytes, as
// there can be a million. Both are counted, and both are of what one more takes.
func TestCostOfAnEntry(t *testing.T) {
	cost := func(entries int) (bytes, allocations float64) {
		cfg := defaultConfig()
		cfg.Tunnels = []Tunnel{largeTunnel(100, entries)}
		text := Print(cfg, false)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := parse("large.toml", text); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return float64(after.TotalAlloc - before.TotalAlloc), float64(after.Mallocs - before.Mallocs)
	}
	const more = 40_000
	fewBytes, fewAllocations := cost(1000)
	bytes, allocations := cost(1000 + more)
	if a, b := (allocations-fewAllocations)/more, (bytes-fewBytes)/more; a > 0.5 || b > 650 {
		t.Errorf("an entry takes %.2f allocations and %.0f bytes, want at most 0.5 and 650", a, b)
	}
}
