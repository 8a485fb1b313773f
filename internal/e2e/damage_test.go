package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestBitErrors: TCP and UDP over a path that nobody checks, with outer
// checksum 0 and bits that flip. Each damaged packet must be found by somebody, and none may
// reach an application: joined to super-frames without a look at its checksum
// it would look whole to the receiver's stack.
//
//	a                                            b
//	gnv0 192.0.2.1/24 . . . . . . . . . . . . .  gnv0 192.0.2.2/24
//	veth0 10.77.0.1/24 == one bit in 1 of 200 == veth0 10.77.0.2/24
func TestBitErrors(t *testing.T) {
	need(t, "nft")
	const every = 200
	size := 20 << 20
	if long() {
		size *= 20
	}
	for _, f := range families {
		for _, offload := range []string{"auto", "off"} {
			t.Run(f.name+" offload "+offload, func(t *testing.T) {
				words := []string{"--noudpcsum", "--offload", offload}
				if f.name == "IPv6" {
					words = []string{"--udp6zerocsumtx", "--udp6zerocsumrx", "--offload", offload}
				}
				p := newPair(t, f, words...)
				// What is sent has the top bit of each byte clear, so setting
				// one flips it. Byte 200 from the outer UDP header is behind
				// all headers.
				p.b.ok(5*time.Second, "nft", fmt.Sprintf(`add table netdev damage
add chain netdev damage wire { type filter hook ingress device veth0 priority 0; }
add rule netdev damage wire udp dport 6081 udp length > 1000 numgen inc mod %d 7 counter @th,1600,1 set 1`, every))
				damage := damaged(p)
				l := p.b.listenTCP("192.0.2.2:7000")
				type result struct {
					sum string
					n   int64
					err error
				}
				got := make(chan result, 1)
				go func() {
					c, err := l.Accept()
					if err != nil {
						got <- result{err: err}
						return
					}
					defer c.Close()
					c.SetDeadline(time.Now().Add(time.Minute))
					sum := sha256.New()
					n, err := io.Copy(sum, c)
					got <- result{hex.EncodeToString(sum.Sum(nil)), n, err}
				}()
				c := p.a.dialTCP("192.0.2.2:7000")
				c.SetDeadline(time.Now().Add(time.Minute))
				sent := sha256.New()
				_, err := io.Copy(io.MultiWriter(c, sent), io.LimitReader(lowBytes{rand.NewChaCha8([32]byte{2})}, int64(size)))
				c.Close()
				r := <-got
				if err != nil || r.err != nil || r.n != int64(size) {
					t.Fatalf("%d bytes of %d arrived, sender %v, receiver %v", r.n, size, err, r.err)
				}
				if want := hex.EncodeToString(sent.Sum(nil)); r.sum != want {
					t.Errorf("SHA-256 %s arrived, want %s: the application got damaged bytes", r.sum, want)
				}
				damage.found(t, "Tcp:", size/1500/every/2)

				// The same for UDP, where nobody sends again.
				damage = damaged(p)
				u := numbered(t, p.a, p.b, "192.0.2.1:0", "192.0.2.2:7001", 10_000, 1200)
				time.Sleep(time.Second)
				number := u.stop()
				soon(2*time.Second, func() bool { return u.got.Load()+int64(damage.flipped()) >= number })
				t.Logf("UDP: %d packets sent, %d arrived", number, u.got.Load())
				if u.damaged.Load() != 0 {
					t.Errorf("UDP: the application got %d damaged packets", u.damaged.Load())
				}
				if n := damage.found(t, "Udp:", 20); u.got.Load()+int64(n) != number {
					t.Errorf("UDP: of %d packets %d arrived and %d were damaged: some whole ones are missing", number, u.got.Load(), n)
				}
			})
		}
	}
}

// damage is the state of all who count damaged packets at b.
type damage struct {
	p        pair
	wire     int
	tcp, udp int
	gvtep    counters
}

func damaged(p pair) damage {
	return damage{p, flips(p.b), p.b.csumErrors("Tcp:"), p.b.csumErrors("Udp:"), p.gb.counters()}
}

// flipped is how many were damaged since.
func (d damage) flipped() int { return flips(d.p.b) - d.wire }

// flips is nft's counter.
func flips(h *host) (n int) {
	h.t.Helper()
	rules := h.ok(5*time.Second, "nft", "list", "table", "netdev", "damage")
	_, rest, ok := strings.Cut(rules, "counter packets ")
	if _, err := fmt.Sscan(rest, &n); !ok || err != nil {
		h.t.Fatalf("nft says %s", rules)
	}
	return n
}

// found checks that each damaged packet, of which there must be some, was
// found by the stack's protocol or by gvtep, and returns how many there were.
func (d damage) found(t *testing.T, protocol string, least int) int {
	t.Helper()
	n := d.flipped()
	if n < least {
		t.Fatalf("only %d packets damaged, want at least %d: the test tests nothing", n, least)
	}
	var stack, drops int
	soon(time.Second, func() bool { // the stack looks at UDP when it is read
		stack = d.p.b.csumErrors(protocol) - map[string]int{"Tcp:": d.tcp, "Udp:": d.udp}[protocol]
		drops = 0
		for name, n := range d.p.gb.counters().since(d.gvtep) {
			if name != "rx.packets" && name != "tx.packets" {
				drops += n
			}
		}
		return stack+drops >= n
	})
	t.Logf("%s %d packets damaged: %d found by the receiver's stack, %d dropped by gvtep", protocol, n, stack, drops)
	if stack+drops != n {
		t.Errorf("%s %d packets damaged, but the receiver's stack found %d and gvtep dropped %d", protocol, n, stack, drops)
	}
	return n
}

// lowBytes clears the top bit of each byte.
type lowBytes struct{ io.Reader }

func (r lowBytes) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	for i := range p[:n] {
		p[i] &= 0x7f
	}
	return n, err
}
