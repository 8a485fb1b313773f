package offload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// sameIDs reports whether joined pieces had one IPv4 ID.
func sameIDs(pieces [][]byte, l3 int) bool {
	return string(pieces[0][l3+4:l3+6]) == string(pieces[1][l3+4:l3+6])
}

// keepID gives a piece of a cut the IPv4 ID of the one that was joined, if the IDs said nothing.
func keepID(piece, was []byte, l3 int, same bool) {
	if !same || len(piece) < l3+20 {
		return
	}
	ip := piece[l3 : l3+20]
	copy(ip[4:6], was[l3+4:])
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^dullSum(ip))
}

// longOptions are destination options of 72 bytes.
func longOptions(proto int) []byte {
	return append([]byte{byte(proto), 8, 1, 68}, make([]byte, 68)...)
}

// routing is a routing header with one address to go to.
func routing(proto int) []byte {
	return append([]byte{byte(proto), 2, 0, 1, 0, 0, 0, 0, 0xfd}, make([]byte, 15)...)
}

// TestAsKernel are the cases of the kernel's own test of its GRO, with what it makes of them:
// how much payload each frame has (tools/testing/selftests/net/gro.c, Linux 7.0: data, ack,
// flags, tcp, ip and large, for IPv4 and IPv6). Ours is held to the same.
func TestAsKernel(t *testing.T) {
	const size, mss = 100, 4096 - 60
	for _, version := range []int{4, 6} {
		plain := func(seq, n int) spec { // create_packet
			s := base(version, 6, n)
			s.id, s.seq, s.tos, s.options = 0, 1000+uint32(seq), 0, nil
			return s
		}
		edit := func(s spec, do func(*spec)) spec { do(&s); return s }
		run := func(total int) (all []spec) {
			for at := 0; at < total; at += mss {
				all = append(all, plain(at, min(mss, total-at)))
			}
			return all
		}
		flagged := func(flag byte, n int) (all []spec) {
			for i := range 5 {
				s := plain(i*size, size)
				if i == 2 {
					s = edit(plain(i*n, n), func(s *spec) { s.flags |= flag })
				}
				all = append(all, s)
			}
			return all
		}
		stamp := func(n byte, order int) func(*spec) {
			ts := []byte{8, 10, 0, 0, 0, n, 0, 0, 0, 0}
			return func(s *spec) {
				s.options = [][]byte{slices.Concat([]byte{1, 1}, ts), slices.Concat([]byte{1}, ts, []byte{1}), slices.Concat(ts, []byte{1, 1})}[order]
			}
		}
		ids := func(frag uint16, ids ...uint16) (all []spec) {
			for i, id := range ids {
				all = append(all, edit(plain(i*size, size), func(s *spec) { s.frag, s.id = frag, id }))
			}
			return all
		}
		hop := func(seq int, option byte) spec {
			return edit(plain(seq, size), func(s *spec) { s.ext, s.extType = []byte{6, 0, 5, 2, 0, 0, 1, option}, 0 })
		}
		most := 65535 - 20 - 40 // of payload
		if version == 4 {
			most = 65535 - 20 - 20
		}
		rest := most % mss
		for _, tc := range []struct {
			name    string
			version int // 0: both
			in      []spec
			want    []int
		}{
			{"data: of the same size", 0, []spec{plain(0, size), plain(size, size)}, []int{2 * size}},
			{"data: a smaller one follows", 0, []spec{plain(0, size), plain(size, size/2)}, []int{size * 3 / 2}},
			{"data: a larger one follows", 0, []spec{plain(0, size/2), plain(size/2, size)}, []int{size / 2, size}},
			{"ack", 0, []spec{plain(0, 0), plain(0, 0), edit(plain(0, 0), func(s *spec) { s.ack++ })}, []int{0, 0, 0}},
			{"flags: PSH", 0, flagged(tcpPSH, size), []int{3 * size, 2 * size}},
			{"flags: SYN", 0, flagged(2, 0), []int{2 * size, 0, 2 * size}},
			{"flags: RST", 0, flagged(4, 0), []int{2 * size, 0, 2 * size}},
			{"flags: URG", 0, flagged(0x20, 0), []int{2 * size, 0, 2 * size}},
			{"tcp: sequence", 0, []spec{plain(0, size), plain(size+1, size)}, []int{size, size}},
			{"tcp: timestamp", 0, []spec{
				edit(plain(0, size), stamp(0, 0)), edit(plain(size, size), stamp(0, 0)), edit(plain(2*size, size), stamp(100, 0)),
				edit(plain(3*size, size), stamp(100, 1)), edit(plain(4*size, size), stamp(100, 2)),
			}, []int{2 * size, size, size, size}},
			{"tcp: options", 0, []spec{
				edit(plain(0, size), stamp(0, 0)), edit(plain(size, size), stamp(0, 0)),
				edit(plain(2*size, size), func(s *spec) { s.options = []byte{1, 3, 3, 0} }),
			}, []int{2 * size, size}},
			{"ip: ECN", 0, []spec{plain(0, size), edit(plain(size, size), func(s *spec) { s.tos ^= 2 })}, []int{size, size}},
			{"ip: TOS", 0, []spec{plain(0, size), edit(plain(size, size), func(s *spec) { s.tos = 0xf0 })}, []int{size, size}},
			{"ip: TTL", 4, []spec{plain(0, size), edit(plain(size, size), func(s *spec) { s.ttl-- })}, []int{size, size}},
			{"ip: options", 4, []spec{plain(0, size), edit(plain(size, size), func(s *spec) { s.ext = []byte{68, 8, 5, 0, 0, 0, 0, 0} }), plain(2*size, size)}, []int{size, size, size}},
			{"ip: fragment", 4, []spec{plain(0, size), edit(plain(size, size), func(s *spec) { s.frag = 0x6000 })}, []int{size, size}},
			{"ip: DF, counting", 4, ids(0x4000, 8, 9), []int{2 * size}},
			{"ip: DF, fixed", 4, ids(0x4000, 8, 8), []int{2 * size}},
			{"ip: no DF, counting", 4, ids(0, 8, 9), []int{2 * size}},
			{"ip: no DF, fixed", 4, ids(0, 8, 8), []int{2 * size}},
			{"ip: DF, two counting and one fixed", 4, ids(0x4000, 8, 9, 9), []int{2 * size, size}},
			{"ip: DF, two fixed and one counting", 4, ids(0x4000, 8, 8, 9), []int{2 * size, size}},
			{"ip: fragment", 6, []spec{
				plain(0, size), plain(size, size), edit(plain(2*size, size), func(s *spec) { s.ext, s.extType = []byte{6, 0, 0, 0, 0, 0, 0, 0}, 44 }), plain(3*size, size),
			}, []int{2 * size, size, size}},
			{"ip: an extension header", 6, []spec{hop(0, 1), hop(size, 1)}, []int{2 * size}},
			{"ip: another extension header", 6, []spec{hop(0, 1), hop(size, 2)}, []int{size, size}},
			{"large", 0, append(run(most), plain(most-rest+mss, rest)), []int{most, rest}},
			{"larger", 0, append(run(most+1), plain(most-rest+mss, rest+1)), []int{most - rest, rest + 1, rest + 1}},
		} {
			if tc.version != 0 && tc.version != version {
				continue
			}
			t.Run(fmt.Sprintf("%s/v%d", tc.name, version), func(t *testing.T) {
				var in [][]byte
				for _, s := range tc.in {
					in = append(in, s.frame())
				}
				_, out := joinAll(t, everything, false, in)
				var got []int
				for _, f := range out {
					h := walk(f, false)
					off := 14 + 20 + 20
					if h.L4 != 0 {
						off = int(h.L4) + int(f[h.L4+12]>>4)*4
					} else { // a fragment, which comes alone
						for _, s := range tc.in {
							if bytes.Equal(s.frame(), f) {
								_, _, off = s.offsets()
							}
						}
					}
					got = append(got, len(f)-off)
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("payloads %v, want %v", got, tc.want)
				}
			})
		}
		// The only case that a spec cannot say.
		in := frames([]spec{plain(0, size), plain(size, size)})
		in[1][len(in[1])-size-3]-- // the checksum
		if _, out := joinAll(t, everything, false, in); len(out) != 2 {
			t.Errorf("tcp: checksum/v%d: %d frames, want 2", version, len(out))
		}
	}
}
