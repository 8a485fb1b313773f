package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// Changes while packets flow.

// call runs a command of the program, whose words may come from any goroutine.
func (g *gvtep) call(binary string, args ...string) (text string, code int) {
	out, err := exec.Command(binary, append([]string{"-i", g.instance, "--timeout", "20s"}, args...)...).CombinedOutput()
	if exit, ok := err.(*exec.ExitError); ok {
		return string(out), exit.ExitCode()
	} else if err != nil {
		return err.Error(), -1
	}
	return string(out), 0
}

// TestConcurrentChanges: entries, peers, settings and tunnels change, all at
// once, while addresses are learned, flap and age and traffic passes, in a
// gvtep built with the race detector. Afterwards the table is what a plain
// model says.
//
//	a  gnv0 192.0.2.1/24    b  gnv0 192.0.2.2/24    c  speaks by hand, as 10.77.0.3
//	   10.77.0.1               10.77.0.2, and by hand
func TestConcurrentChanges(t *testing.T) {
	need(t, "ping", "gcc")
	takes := map[bool]time.Duration{false: 6 * time.Second, true: time.Minute}[long()]
	race, err := suite.race()
	if err != nil {
		t.Fatal(err)
	}
	plain := built(t)
	f := &established{hosts: lan(t)}
	a, b := f.hosts[0], f.hosts[1]
	g := a.launch(race, newInstance(), "gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--remote", "10.77.0.3",
		"--address", "192.0.2.1/24", "--workers", "4", "--maxaddress", "1000", "--ageing", "2", "--neigh_suppress", "on")
	g.ready()
	f.g = g
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24")
	a.pings("192.0.2.2")
	f.streams = []*stream{
		numbered(t, a, b, "192.0.2.1:0", "192.0.2.2:7000", 1000, 200),
		numbered(t, b, a, "192.0.2.2:0", "192.0.2.1:7000", 1000, 200),
	}

	end := time.Now().Add(takes)
	var all sync.WaitGroup
	// Two peers teach addresses, some of them the same.
	packet := join("0000 6558 00002a00", eth(broadcast, mac{}, typeLabel, make([]byte, 46)))
	for i, from := range []string{"10.77.0.2", "10.77.0.3"} {
		forger := f.hosts[i+1].forger(from, "10.77.0.1", len(packet))
		packet := append([]byte{}, packet...)
		all.Go(func() {
			for time.Now().Before(end) {
				for range 5 {
					copy(packet[14:], []byte{6, byte(rand.IntN(3)) * byte(i)})
					binary.BigEndian.PutUint32(packet[16:], uint32(rand.IntN(600)))
					if err := forger.send(packet); err != nil {
						t.Error(err)
						return
					}
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	// Each of the others has addresses of its own, and knows what they must be.
	type entry struct{ dst, state string }
	const writers, stations = 4, 6
	models, done := make([]map[string]entry, writers), make([]int, writers)
	for w := range writers {
		models[w] = map[string]entry{}
		all.Go(func() {
			model := models[w]
			for time.Now().Before(end) {
				m := mac{2, 0, 0, 0, byte(0x10 + w), byte(rand.IntN(stations))}.String()
				e := entry{fmt.Sprint("10.77.0.", []int{2, 3, 9, 10 + w}[rand.IntN(4)]), []string{"static", "permanent"}[rand.IntN(2)]}
				verb := []string{"add", "replace", "del", "get"}[rand.IntN(4)]
				words, want := []string{"fdb", verb, m, "dev", "gnv0"}, 0
				_, there := model[m]
				switch {
				case verb == "add" && there, verb != "add" && verb != "replace" && !there:
					want = 2
				case verb == "del":
					delete(model, m)
				case verb != "get":
					model[m] = e
				}
				if verb == "add" || verb == "replace" {
					words = append(words, "dst", e.dst, e.state)
				}
				if text, code := g.call(plain, words...); code != want {
					t.Errorf("gvtep %s: exit status %d, want %d: %s", strings.Join(words, " "), code, want, text)
					return
				}
				done[w]++
			}
		})
	}
	var turns int
	all.Go(func() {
		steps := [][]string{
			{"tunnel", "set", "gnv0", "maxaddress", "300", "ttl", "9"},
			{"peer", "add", "10.77.0.50", "dev", "gnv0"},
			{"fdb", "flush", "dev", "gnv0", "dynamic"},
			{"tunnel", "add", "gnv1", "id", "43", "remote", "10.77.0.2", "local", "10.77.0.1"},
			{"tunnel", "set", "gnv0", "move_damping", "off", "ageing", "1"},
			{"fdb", "show"},
			{"peer", "set", "10.77.0.50", "dev", "gnv0", "noflood"},
			{"tunnel", "set", "gnv0", "maxaddress", "1000", "neigh_suppress", "off"},
			{"fdb", "append", "01:00:5e:01:02:03", "dev", "gnv0", "dst", "10.77.0.2"},
			{"fdb", "append", "01:00:5e:01:02:03", "dev", "gnv0", "dst", "10.77.0.60"},
			{"tunnel", "del", "gnv1"},
			{"fdb", "del", "01:00:5e:01:02:03", "dev", "gnv0"},
			{"peer", "del", "10.77.0.50", "dev", "gnv0"},
			{"tunnel", "set", "gnv0", "move_damping", "on", "ageing", "2", "neigh_suppress", "on"},
			{"-s", "-d", "show"},
		}
		for ; time.Now().Before(end); turns++ {
			if text, code := g.call(plain, steps[turns%len(steps)]...); code != 0 {
				t.Errorf("gvtep %s: exit status %d: %s", strings.Join(steps[turns%len(steps)], " "), code, text)
				return
			}
		}
	})
	all.Wait()
	t.Logf("%v changes of entries, %d of others in %s", done, turns, takes)
	f.whole(t)

	table := map[string]entry{}
	for _, e := range g.fdb() {
		if strings.HasPrefix(e.MAC, "02:00:00:00:1") {
			table[e.MAC] = entry{e.Dst, e.State}
		}
	}
	entries := 0
	for _, model := range models {
		entries += len(model)
		for m, want := range model {
			if table[m] != want {
				t.Errorf("%s is %+v in the table, want %+v", m, table[m], want)
			}
		}
	}
	if len(table) != entries {
		t.Errorf("%d entries in the table, want %d", len(table), entries)
	}
	g.stop()
	if text := g.stderr.String(); strings.Contains(text, "DATA RACE") {
		t.Errorf("the race detector says\n%s", text)
	}
}

// TestTunnelChurn: tunnels come and go beside others that are busy, and cost
// them not one packet. None gets a packet that is not its own.
//
//	a, b  gnv0 192.0.2.1, .2/24, VNI 42, and gnv1 198.51.100.1, .2/24, VNI 43: two streams each
//	a     gnv2, VNI 44 and on, from the same peer: comes and goes
func TestTunnelChurn(t *testing.T) {
	need(t, "ping")
	// The highest rate, packets a second of all streams together, that the
	// machine carries without loss while commands run that change nothing:
	// what is lost beside the others is lost by the changes.
	changes, rates := 100, []int{20_000, 10_000, 5_000, 2_000}
	if long() {
		changes, rates = 1000, []int{100_000, 80_000, 60_000, 40_000, 20_000}
	}
	a, b := underlay(t)
	var daemons []*gvtep
	for i, h := range []*host{a, b} {
		daemons = append(daemons, h.configured("gnv1", file(t, "two.toml", fmt.Sprintf(`
[socket]
workers = 2
[defaults]
local  = "10.77.0.%d"
remote = "10.77.0.%d"
txqueuelen = 10000 # holds what comes while the machine does something else
[[tunnel]]
name    = "gnv0"
id      = 42
address = "192.0.2.%[1]d/24"
[[tunnel]]
name    = "gnv1"
id      = 43
address = "198.51.100.%[1]d/24"
`, i+1, 2-i))))
	}
	g := daemons[0]
	a.pings("192.0.2.2")
	a.pings("198.51.100.2")
	port := 7000
	streams := func(rate int) *established {
		f := &established{}
		for i, net := range []string{"192.0.2.", "198.51.100."} {
			for k, from := range []*host{a, b} {
				port++
				to := []*host{b, a}[k]
				f.streams = append(f.streams, numbered(t, from, to, fmt.Sprint(net, 1+k, ":0"), fmt.Sprint(net, 2-k, ":", port), rate/4, 200+100*i))
			}
		}
		return f
	}
	rate := 0
	for _, r := range rates {
		f := streams(r)
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			g.call(g.binary, "show")
		}
		whole := true
		for _, s := range f.streams {
			sent, got := s.end()
			whole = whole && got == sent && int(sent) > r/4 // half of what is wanted: it keeps up
		}
		if whole {
			rate = r
			break
		}
		t.Logf("%d packets/s: more than this machine carries now", r)
	}
	if rate == 0 {
		t.Fatalf("not even %d packets/s pass without loss while nothing changes", rates[len(rates)-1])
	}
	f := streams(rate)
	before := []counters{daemons[0].counters(), daemons[1].counters()}
	descriptors, start := 0, time.Now()
	for n := range changes {
		id := fmt.Sprint(44 + n%20)
		if text, code := g.call(g.binary, "tunnel", "add", "gnv2", "id", id, "local", "10.77.0.1", "remote", "10.77.0.2"); code != 0 {
			t.Fatalf("tunnel add, the %d-th: %d, %s", n, code, text)
		}
		var tun tunnelAnswer
		if err := g.ask("/v1/tunnels/gnv2", &tun); err != nil || tun.Stats.RX.Packets != 0 {
			t.Errorf("the %d-th: %d packets came to a tunnel that nobody uses, %v", n, tun.Stats.RX.Packets, err)
		}
		if text, code := g.call(g.binary, "tunnel", "del", "gnv2"); code != 0 {
			t.Fatalf("tunnel del, the %d-th: %d, %s", n, code, text)
		}
		if n == 2 {
			descriptors = g.descriptors()
		}
	}
	took := time.Since(start)
	var sent, got int64
	for i, s := range f.streams {
		n, m := s.end()
		sent, got = sent+n, got+m
		if n != m || s.damaged.Load() != 0 {
			t.Errorf("stream %d: of %d packets %d arrived, %d of them damaged; want all", i, n, m, s.damaged.Load())
		}
	}
	t.Logf("%d times tunnel add and del in %s beside %.0f packets/s: %d packets sent, %d arrived", changes, took.Round(time.Millisecond),
		float64(sent)/took.Seconds(), sent, got)
	for i, d := range daemons {
		if t.Failed() {
			t.Logf("counters of %s moved by %v", d.h.name, d.counters().since(before[i]))
		}
	}
	within(t, 2*time.Second, "no descriptor more than in the beginning", func() bool { return g.descriptors() <= descriptors })
}
