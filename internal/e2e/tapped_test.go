package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestCaptureTshark: tshark reads what gvtep capture saves, also of 100,000 packets (in the long run): each with its
// point, and those dropped with the reason.
func TestCaptureTshark(t *testing.T) {
	need(t, "tshark", "ping")
	p := newPair(t, families[0], "--workers", "2", "--fastpath", "off") // which carries what is not seen
	file := filepath.Join(t.TempDir(), "packets")

	// Datagrams to a VNI that b does not have: each is seen as it comes and as it is dropped, but
	// for those that there is no room for. It goes on until there are enough.
	packets := 10_000
	if long() {
		packets = 100_000
	}
	capture := p.gb.capturing(file, "--count", strconv.Itoa(packets), "--buffer", "67108864")
	to := p.a.dialUDP("10.77.0.2:6081")
	strange := append([]byte{0, 0, 0x65, 0x58, 0, 0, 77, 0}, make([]byte, 60)...)
	within(t, 5*time.Minute, "a capture of so many packets", func() bool {
		for range 500 {
			to.Write(strange)
		}
		_, err := capture.wait(10 * time.Millisecond)
		return err == nil
	})
	if code, _ := capture.wait(time.Minute); code != 0 || !strings.HasPrefix(capture.stderr.String(), fmt.Sprint(packets, " packets")) {
		t.Fatalf("exit status %d, %q; want %d packets", code, capture.stderr.String(), packets)
	}
	t.Log(strings.TrimSpace(capture.stderr.String()))
	rows := strings.Split(strings.TrimSpace(wireshark(t, "-r", file, "-T", "fields", "-E", "separator=|",
		"-e", "frame.interface_name", "-e", "frame.comment", "-e", "geneve.vni", "-e", "ip.src", "-e", "udp.dstport")), "\n")
	seen := map[string]int{}
	for _, row := range rows {
		columns := strings.Split(row, "|")
		seen[columns[0]]++
		if columns[0] == "drops" && strings.Contains(columns[1], "vni=77") &&
			(!strings.Contains(columns[1], "reason=unknown_vni direction=in vni=77 from=10.77.0.1 port=6081 packets=1") ||
				!strings.HasPrefix(columns[2], "0x00004d") || columns[3] != "10.77.0.1" || columns[4] != "6081") {
			t.Fatalf("tshark reads %q", row)
		}
	}
	if len(rows) != packets || seen["drops"] < packets/4 || seen["outer-in"] < packets/4 {
		t.Errorf("tshark reads %d packets, %v; want %d, as they came and as they were dropped", len(rows), seen, packets)
	}

	// What passes is seen as the device and as the underlay has it.
	capture = p.ga.capturing(file, "gnv0", "proto", "icmp", "--count", "8")
	p.a.ping("192.0.2.2")
	if code, err := capture.wait(30 * time.Second); code != 0 || err != nil {
		t.Fatalf("a capture of two pings: exit status %d, %v", code, err)
	}
	text := wireshark(t, "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "geneve.vni", "-e", "icmp.type")
	for _, want := range []string{"inner-out\t\t8", "outer-out\t0x00002a\t8", "outer-in\t0x00002a\t0", "inner-in\t\t0"} {
		if strings.Count(text, want) != 2 {
			t.Errorf("tshark reads\n%swant %q twice", text, want)
		}
	}
	if faults := wireshark(t, "-o", "ip.check_checksum:TRUE", "-r", file, "-Y", "_ws.malformed || _ws.expert.severity >= error"); faults != "" {
		t.Errorf("tshark finds faults:\n%s", faults)
	}
}

// capturing starts a capture to a file, and returns when it has begun.
func (g *gvtep) capturing(file string, words ...string) (p *program) {
	g.h.t.Helper()
	within(g.h.t, 30*time.Second, "a capture that begins", func() bool {
		os.Remove(file)
		p = g.h.start(nil, g.binary, append([]string{"-i", g.instance, "capture", "-w", file}, words...)...)
		for {
			if _, err := p.wait(20 * time.Millisecond); err == nil {
				return false // one that ended a moment ago may still count
			}
			if info, err := os.Stat(file); err == nil && info.Size() > 0 {
				return true
			}
		}
	})
	return p
}
