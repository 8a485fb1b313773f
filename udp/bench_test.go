package udp

import (
	"fmt"
	"net/netip"
	"testing"

	"gvtep/internal/packet"
)

// BenchmarkPorts is the making and closing of a full set, of which every start
// of the process needs one or two: 64 ports for 2 workers.
func BenchmarkPorts(b *testing.B) {
	for _, family := range []int{4, 6} {
		b.Run(fmt.Sprint(family), func(b *testing.B) {
			newNetwork(b)
			u := newUnderlay(b, Config{Workers: 2, GSO: true})
			for b.Loop() {
				set, err := u.Ports(fixed(family, 64))
				must(b, err)
				b.StopTimer()
				u.Release(set)
				b.StartTimer()
			}
		})
	}
}

func BenchmarkRoute(b *testing.B) {
	newNetwork(b)
	u := newUnderlay(b, Config{})
	for b.Loop() {
		_, err := u.Route(netip.AddrPortFrom(there4, 6081), fixed(4, 1))
		must(b, err)
	}
}

// BenchmarkReceive receives over loopback what was queued before, in batches of
// different length: single small datagrams of 64 flows, and full trains.
func BenchmarkReceive(b *testing.B) {
	for _, c := range []struct {
		name         string
		size, queued int
		flows        uint32
	}{{"64B", 64, 512, 64}, {"train", 1400, 460, 1}} {
		for _, batch := range []int{1, 4, 8, 16, 32, 64, 128} {
			b.Run(fmt.Sprintf("%s/batch%d", c.name, batch), func(b *testing.B) {
				newNetwork(b)
				u := newUnderlay(b, Config{Batch: batch, GRO: c.flows == 1, GSO: true})
				l, err := u.Listen(ListenOptions{Local: here4, Port: 6081})
				must(b, err)
				defer l.Close()
				set, err := u.Ports(fixed(4, 64))
				must(b, err)
				s := u.Sender(0)
				path := &packet.Path{Remote: netip.AddrPortFrom(here4, 6081), Set: set}
				data := make([]byte, c.size)
				r, buf := l.Receiver(0), make([]byte, batch*rxStride)
				var sum byte
				b.SetBytes(int64(c.size))
				b.ResetTimer()
				for n := 0; n < b.N; {
					b.StopTimer()
					for i := range c.queued {
						s.Add(path, uint32(i)%c.flows<<26, 0, 0, data, nil)
					}
					s.Flush()
					b.StartTimer()
					for {
						trains, _, err := r.Receive(buf)
						must(b, err)
						if len(trains) == 0 {
							break
						}
						// The reader of a real worker reads the bytes too.
						for i := range trains {
							for at := 0; at < len(trains[i].Data); at += 64 {
								sum += trains[i].Data[at]
							}
							n += (len(trains[i].Data) + c.size - 1) / c.size
						}
					}
				}
				_ = sum
			})
		}
	}
}

// BenchmarkLoopback sends full runs and receives the trains, in one thread.
func BenchmarkLoopback(b *testing.B) {
	newNetwork(b)
	u := newUnderlay(b, Config{GRO: true, GSO: true})
	l, err := u.Listen(ListenOptions{Local: here4, Port: 6081})
	must(b, err)
	set, err := u.Ports(fixed(4, 64))
	must(b, err)
	s := u.Sender(0)
	path := &packet.Path{Remote: netip.AddrPortFrom(here4, 6081), Set: set}
	buf := room()
	head, tail := make([]byte, 50), make([]byte, 1400)
	b.SetBytes(1450)
	b.ResetTimer()
	for n := 0; n < b.N; n += 45 {
		for range 45 {
			s.Add(path, 0, 0, 64, head, tail)
		}
		if fs := s.Flush(); len(fs) != 0 {
			b.Fatal(describe(fs))
		}
		if _, _, err := l.Receiver(0).Receive(buf); err != nil {
			b.Fatal(err)
		}
	}
}
