package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// largeTunnel has as many peers, and entries behind them, as are asked for.
func largeTunnel(peers, entries int) Tunnel {
	t := defaults()
	t.Name, t.VNI, t.NoVNI = "gnv0", 1, false
	for i := range peers {
		t.Peers = append(t.Peers, Peer{Remote: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).Next()})
	}
	for i := range entries {
		t.Entries = append(t.Entries, Entry{LLAddr: fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", byte(i>>24), byte(i>>16), byte(i>>8), byte(i)), Dst: t.Peers[i%peers].Remote, State: "permanent"})
	}
	return t
}

func BenchmarkCheck(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t := largeTunnel(min(n, 10_000), n)
			for b.Loop() {
				if err := t.Check(64); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/entry")
		})
	}
}

func BenchmarkLoadEntries(b *testing.B) {
	for _, n := range []int{1000, 10_000, 60_000} {
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
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/entry")
		})
	}
}

var _ = strings.Repeat
