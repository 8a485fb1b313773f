package capture

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvtep/internal/packet"
	"gvtep/vtep/capture"
	"gvtep/vtep/count"
)

// stream is n datagrams of 1000 bytes, dropped, and as many that there was no room for.
func stream(t *testing.T, n int) []byte {
	t.Helper()
	tap := capture.New(capture.Options{Points: capture.Of(capture.Drops), Snaplen: 2000, Buffer: capture.MinBuffer, Rate: n}, 1, time.Unix(0, 0))
	r := capture.Record{Point: capture.Drops, Reason: count.DropUnknownVNI, Count: 1, VNI: 7, Dev: "gnv0",
		Source: netip.MustParseAddrPort("[fd00::2]:0"), Dest: netip.MustParseAddrPort("[fd00::1]:6081")}
	for range 2 * n {
		tap.Add(0, &r, []byte{0, 0, 0x65, 0x58, 0, 0, 7, 0}, make([]byte, 992), nil, new(packet.Headers))
	}
	var b bytes.Buffer
	if err := Pump(context.Background(), tap, &b, n); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestPackets: what is written can be read, with point, comments, lengths and losses.
func TestPackets(t *testing.T) {
	totals, err := Packets(bytes.NewReader(stream(t, 3)), func(s *Seen) error {
		about := s.About()
		if s.Point != "drops" || s.Out || s.Length != 1048 || len(s.Data) != 1048 || about["reason"] != "unknown_vni" || about["from"] != "fd00::2" || about["dev"] != "gnv0" {
			t.Errorf("%+v", s)
		}
		// RFC 8200 section 8.1: there is a checksum, and it is right.
		pseudo := sum(sum(protoUDP+1008, s.Data[8:40]), s.Data[40:])
		if fold(pseudo) != 0xffff || s.Data[46]|s.Data[47] == 0 {
			t.Errorf("UDP checksum %x", s.Data[46:48])
		}
		return nil
	})
	if err != nil || totals != (Totals{3, 3}) {
		t.Errorf("%+v, %v; want 3 packets, and 3 that were not copied", totals, err)
	}
}

type memFile struct {
	bytes.Buffer
	closed bool
}

func (f *memFile) Close() error { f.closed = true; return nil }

// TestSave: files have the length that was asked for, and each can be read alone.
func TestSave(t *testing.T) {
	for limit, want := range map[int64]int{0: 1, 2500: 3, 1: 5} {
		var files []*memFile
		totals, err := Save(bytes.NewReader(stream(t, 5)), func(n int) (io.WriteCloser, error) {
			files = append(files, new(memFile))
			return files[n], nil
		}, limit)
		if err != nil || totals != (Totals{5, 5}) || len(files) < want {
			t.Errorf("limit %d: %+v in %d files, %v; want 5 packets in %d", limit, totals, len(files), err, want)
		}
		packets := uint64(0)
		for i, f := range files {
			if limit > 1 && int64(f.Len()) > limit || !f.closed {
				t.Errorf("limit %d: file %d has %d bytes, closed %v", limit, i, f.Len(), f.closed)
			}
			of, err := Packets(f, func(*Seen) error { return nil })
			if err != nil {
				t.Errorf("limit %d: file %d: %v", limit, i, err)
			}
			packets += of.Packets
		}
		if packets != 5 {
			t.Errorf("limit %d: %d packets in all files, want 5", limit, packets)
		}
	}
	if _, err := Save(strings.NewReader(strings.Repeat("x", 100)), func(int) (io.WriteCloser, error) { return new(memFile), nil }, 0); err == nil {
		t.Error("what is no pcapng was saved")
	}
}
