package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Much traffic.
//
//	a                                          b
//	gnv0 192.0.2.1/24 . . . . . . . . . . . .  gnv0 192.0.2.2/24
//	veth0 10.77.0.1/24 ======================  veth0 10.77.0.2/24

// TestTransfer: 200 MB by TCP in each direction arrive as they were sent,
// with the device's offloads and without.
func TestTransfer(t *testing.T) {
	need(t)
	const size = 200 << 20
	for _, f := range families {
		for _, words := range [][]string{nil, {"--offload", "off"}} {
			if f.name == "IPv6" && words != nil && !long() {
				continue
			}
			t.Run(f.name+strings.Join(words, " "), func(t *testing.T) {
				p := newPair(t, f, words...)
				for _, way := range []struct {
					name, to string
					from, at *host
				}{{"a to b", "192.0.2.2:7000", p.a, p.b}, {"b to a", "192.0.2.1:7000", p.b, p.a}} {
					l := way.at.listenTCP(way.to)
					type result struct {
						sum hash.Hash
						n   int64
						err error
					}
					got := make(chan result, 1)
					go func() {
						r := result{sum: sha256.New()}
						c, err := l.Accept()
						if r.err = err; err == nil {
							c.SetDeadline(time.Now().Add(time.Minute))
							r.n, r.err = io.Copy(r.sum, c)
							c.Close()
						}
						got <- r
					}()
					c := way.from.dialTCP(way.to)
					c.SetDeadline(time.Now().Add(time.Minute))
					sent, start := sha256.New(), time.Now()
					// Random bytes: one that is out of place changes the sum.
					source := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
					_, err := io.Copy(io.MultiWriter(c, sent), source)
					c.Close()
					r := <-got
					if err != nil || r.err != nil || r.n != size {
						t.Fatalf("%s: %d bytes of %d arrived, sender %v, receiver %v", way.name, r.n, size, err, r.err)
					}
					if s, g := hex.EncodeToString(sent.Sum(nil)), hex.EncodeToString(r.sum.Sum(nil)); s != g {
						t.Errorf("%s: SHA-256 %s arrived, want %s", way.name, g, s)
					}
					t.Logf("%s: %.1f Gbit/s, sums and random bytes included", way.name, size*8/time.Since(start).Seconds()/1e9)
				}
				for _, g := range []*gvtep{p.ga, p.gb} {
					if c := g.counters(); c["tx.bad_offload"] != 0 {
						t.Errorf("%s: counters %v, want no bad_offload", g.h.name, c)
					}
				}
			})
		}
	}
}

// TestHeap: a running gvtep makes no objects per packet. The number of heap
// objects, read after a collection, is the same before and after a million
// packets in each direction.
func TestHeap(t *testing.T) {
	need(t)
	packets := 200_000
	if long() {
		packets = 1_000_000
	}
	p := newPair(t, families[0])
	objects := func() int64 {
		t.Helper()
		var s statusAnswer
		if err := p.ga.ask("/v1/status?details", &s); err != nil {
			t.Fatal(err)
		}
		if s.Go.HeapObjects == nil {
			t.Fatal("gvtep -j status has no .go.heap_objects (live heap objects after a collection)")
		}
		return *s.Go.HeapObjects
	}
	// Everything that is made once is made: routes, entries, buffers.
	blast(t, p.a, p.b, 10_000)
	blast(t, p.b, p.a, 10_000)
	objects()
	start, before := p.ga.counters(), objects()
	for _, way := range []struct {
		from, to *host
		counter  string
	}{{p.a, p.b, "tx.packets"}, {p.b, p.a, "rx.packets"}} {
		for end := time.Now().Add(100 * time.Second); p.ga.counters().since(start)[way.counter] < packets; {
			if time.Now().After(end) {
				t.Fatalf("only %d of %d packets (%s)", p.ga.counters().since(start)[way.counter], packets, way.counter)
			}
			blast(t, way.from, way.to, packets/4)
		}
	}
	after := objects()
	t.Logf("%v; heap objects before %d, after %d", p.ga.counters().since(start), before, after)
	if d := after - before; d >= 1000 || d <= -1000 {
		t.Errorf("%d heap objects before and %d after, want a difference under 1000", before, after)
	}
}

// blast sends n small UDP packets of 16 flows from one host to the other, as
// fast as it can.
func blast(t *testing.T, from, to *host, n int) {
	t.Helper()
	address := map[string]string{"a": "192.0.2.1", "b": "192.0.2.2"}
	sink := to.listenUDP(address[to.name] + ":9")
	defer sink.Close()
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	from.do(func() error {
		for range 16 {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			fds = append(fds, fd)
			dst := netip.MustParseAddr(address[to.name])
			if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: dst.As4(), Port: 9}); err != nil {
				return err
			}
		}
		return nil
	})
	message := make([]byte, 64)
	for i := range n {
		if _, err := unix.Write(fds[i%len(fds)], message); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
}
