package vtep

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"gvtep/internal/packet"
	"gvtep/vtep/capture"
)

// captured runs f while everything that o wants is captured, and returns what it was, with
// the bytes.
func (h *host) captured(t *testing.T, o capture.Options, f func()) (all []string, data [][]byte) {
	t.Helper()
	o.Buffer, o.Snaplen = capture.MinBuffer, capture.MaxSnaplen
	if o.Points == 0 {
		o.Points = 1<<capture.NumPoints - 1
	}
	tap, stop, err := h.Capture(o)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	f()
	tap.Read(func(r *capture.Record) bool {
		s := fmt.Sprintf("%s %s vni %d %d bytes", r.Point, r.Dev, r.VNI, r.Length)
		if r.VLAN != 0 {
			s += fmt.Sprintf(" vlan %d", r.VLAN)
		}
		if r.Point == capture.Drops {
			s += " " + r.Reason.String()
		}
		all, data = append(all, s), append(data, slices.Clone(r.Data))
		return true
	})
	return all, data
}

// TestCapture: every packet is seen at each point that it passes, as it is there, and only what was
// asked for.
func TestCapture(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	trunk := testTrunk("gnv1", "192.0.2.2")
	trunk.Device.LLAddr = packet.MAC{2, 0, 0, 0, 0x0a, 9}
	trunkDev := h.add(trunk)
	out := frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 2, "out"))
	in := frame(macA, macB, 0x0800, ipv4(0, "10.99.0.2", "10.99.0.1", 2, 1, "in"))
	tagged := withTag(frame(macB, packet.MAC{2, 0, 0, 0, 0x0a, 9}, 0x88b5, make([]byte, 46)), 0x8100, 12)
	work := func() {
		dev.queues[0].feed(memFrame{bytes: slices.Clone(out)})
		h.step()
		for _, b := range [][]byte{good(in), datagram(0, 0, packet.EtherTypeEthernet, testVNI+7, nil, in), ofVNI(5011, frame(macB, macB, 0x88b5, make([]byte, 46)))} {
			h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(b), slices.Clone(b))
			h.step()
		}
	}
	const vni, strange = testVNI, testVNI + 7
	gnv0 := []string{
		fmt.Sprintf("inner-out gnv0 vni %d %d bytes", vni, len(out)), fmt.Sprintf("outer-out gnv0 vni %d %d bytes", vni, len(out)+8),
		fmt.Sprintf("outer-in gnv0 vni %d %d bytes", vni, len(in)+8), fmt.Sprintf("inner-in gnv0 vni %d %d bytes", vni, len(in)),
		fmt.Sprintf("outer-in  vni %d %d bytes", strange, len(in)+8), fmt.Sprintf("drops  vni %d %d bytes unknown_vni", strange, len(in)+8),
	}
	for _, tt := range []struct {
		name   string
		dev    string
		points capture.Points
		filter []string
		want   []string
	}{
		{"a tunnel", "gnv0", 0, nil, gnv0},
		{"its drops", "gnv0", capture.Of(capture.Drops), nil, gnv0[5:]},
		{"a filter", "gnv0", 0, []string{"vni", fmt.Sprint(strange), "not", "reason", "unknown_vni"}, gnv0[4:5]},
		{"a trunk", "gnv1", capture.Of(capture.InnerIn, capture.OuterIn), []string{"vlan", "11"}, []string{"outer-in gnv1 vni 5011 68 bytes vlan 11", "inner-in gnv1 vni 5011 64 bytes vlan 11"}},
	} {
		got, data := h.captured(t, capture.Options{Dev: tt.dev, Points: tt.points, Filter: parsed(t, tt.filter)}, work)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if tt.name == "a tunnel" && len(data) == len(gnv0) && (!bytes.Equal(data[0], out) || !bytes.Equal(data[1][8:], out) || !bytes.Equal(data[2], good(in)) || !bytes.Equal(data[3], in)) {
			t.Errorf("%s: %x", tt.name, data)
		}
	}
	got, _ := h.captured(t, capture.Options{Dev: "gnv1"}, func() {
		trunkDev.queues[0].feed(memFrame{bytes: slices.Clone(tagged)})
		h.step()
	})
	if want := []string{"inner-out gnv1 vni 5012 64 bytes vlan 12", "outer-out gnv1 vni 5012 68 bytes vlan 12"}; !slices.Equal(got, want) {
		t.Errorf("out of a trunk: %q, want %q", got, want)
	}
	got, _ = h.captured(t, capture.Options{Points: capture.Of(capture.Drops)}, func() {
		dev.queues[0].feed(memFrame{bytes: frame(macB, packet.MAC{1}, 0x0800, make([]byte, 46))})
		h.step()
	})
	if want := []string{fmt.Sprintf("drops gnv0 vni %d 60 bytes bad_source_mac", vni)}; !slices.Equal(got, want) {
		t.Errorf("a frame that is not sent: %q, want %q", got, want)
	}
}

func parsed(t *testing.T, words []string) capture.Filter {
	t.Helper()
	f, err := capture.ParseFilter(words)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestOneCapture: there is one at a time.
func TestOneCapture(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.add(testTunnel("gnv0", "192.0.2.2"))
	o := capture.Options{Points: capture.Of(capture.Drops), Buffer: capture.MinBuffer, Snaplen: 64}
	_, stop, err := h.Capture(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Capture(o); !errors.Is(err, ErrCapturing) {
		t.Errorf("a second capture: %v, want %v", err, ErrCapturing)
	}
	stop()
	_, stop, err = h.Capture(o)
	if err != nil {
		t.Errorf("a capture after another: %v", err)
	}
	stop()
	o.Dev = "gnv9"
	if _, _, err := h.Capture(o); err == nil {
		t.Error("a capture of a tunnel that there is not")
	}
}
