package daemon

import (
	"fmt"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/option"
)

// remembered is a memory as a value.
type remembered struct {
	vtep.TunnelMemory
	Table []vtep.Learned
}

func memoryOf(all []remembered) vtep.Memory {
	return func(yield func(*vtep.TunnelMemory, iter.Seq[vtep.Learned]) bool) {
		for i := range all {
			if !yield(&all[i].TunnelMemory, slices.Values(all[i].Table)) {
				return
			}
		}
	}
}

func collect(m vtep.Memory) (all []remembered) {
	for tm, table := range m {
		all = append(all, remembered{*tm, slices.Collect(table)})
	}
	return all
}

func differ(want, got []remembered) string {
	return cmp.Diff(want, got, cmp.Comparer(func(a, b netio.DeviceOptions) bool { return a.Name == b.Name && a.MTU == b.MTU }),
		cmp.Comparer(func(a, b vtep.Learned) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b vtep.Entry) bool { return a == b }))
}

func twoTunnels() []remembered {
	far := netip.MustParseAddrPort("[2001:db8::1]:6081")
	sent, err := option.Default().Parse("ovn.ports:00010002,ff01:01:@src")
	if err != nil {
		panic(err) // they are well formed
	}
	return []remembered{
		{
			vtep.TunnelMemory{
				Device: netio.DeviceOptions{Name: "gnv0", MTU: 1450}, VNI: 42,
				Peers:        []vtep.PeerMemory{{Remote: far, Silent: time.Second, Dynamic: true}},
				Destinations: []vtep.DestinationMemory{{Remote: far}, {Remote: far, VNI: 7, HasVNI: true, Via: "eth0", NoPeer: true, Options: sent.Share()}},
				ByHand:       []vtep.Entry{{MAC: packet.MAC{2, 0, 0, 0, 0, 2}, Remote: far.Addr(), State: fdb.Static, Options: sent.Share()}},
			},
			[]vtep.Learned{
				{MAC: packet.MAC{2, 0, 0, 0, 0, 1}, Segment: 42, To: vtep.LocalDestination, Updated: time.Second, Used: time.Minute},
				{MAC: packet.MAC{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}, VLAN: 4094, Segment: 1<<24 - 1, To: 1, Flags: fdb.ExternLearn, Moves: 65535},
			},
		},
		{vtep.TunnelMemory{Device: netio.DeviceOptions{Name: "gnv1"}}, []vtep.Learned{{MAC: packet.MAC{2, 0, 0, 0, 0, 3}}}},
	}
}

// TestMemoryFile: what is saved is loaded, and nothing else.
func TestMemoryFile(t *testing.T) {
	dir := t.TempDir()
	if m, err := openMemory(dir); err != nil || collect(m.all()) != nil {
		t.Errorf("no file: %v", err)
	}
	all := twoTunnels()
	if err := saveMemory(dir, memoryOf(all)); err != nil {
		t.Fatal(err)
	}
	m, err := openMemory(dir)
	if err != nil || m.age <= 0 || m.age > time.Minute || len(m.devices) != 2 || m.devices["gnv0"].MTU != 1450 {
		t.Fatalf("%+v, %v", m, err)
	}
	if d := differ(all, collect(m.all())); d != "" || m.err != nil {
		t.Errorf("%v; (-saved +loaded)\n%s", m.err, d)
	}
	for tm, table := range m.all() { // part of one table, and nothing of the other
		for range table {
			break
		}
		all[0].Device.Name = tm.Device.Name
	}
	if all[0].Device.Name != "gnv1" || m.err != nil {
		t.Errorf("the last tunnel is %s, %v", all[0].Device.Name, m.err)
	}
	m.close()
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
	path := filepath.Join(dir, memoryName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for n := range text { // wherever the disk was full
		write(string(text[:n]))
		if m, err := openMemory(dir); err == nil || collect(m.all()) != nil || len(m.devices) > 0 {
			t.Fatalf("cut after %d of %d bytes: %v, %v", n, len(text), m, err)
		}
	}
	for _, broken := range []string{"[1,2]", "[1,2,3,4,5,6,7,8,9]", "[1,2,3,4,5,6,7,x]", "[1,2,3,4,5,6,7,8", "[]"} {
		lines := strings.SplitAfter(string(text), "\n")
		write(strings.Join(slices.Insert(lines, 3, broken+"\n"), ""))
		m, err := openMemory(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := collect(m.all()); m.err == nil || !strings.Contains(m.err.Error(), broken) || len(got) != 1 || len(got[0].Table) != 1 {
			t.Errorf("%s: %v, %v", broken, m.err, got)
		}
		m.close()
	}
	if err := saveMemory(filepath.Join(dir, "nowhere"), memoryOf(all)); err == nil {
		t.Error("saved where there is no directory")
	}
}

// TestMemoryFileOne: a file of version 1 is read. The text was written by such a build.
func TestMemoryFileOne(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile("testdata/memory1.json")
	if err != nil {
		t.Fatal(err)
	}
	saved := fmt.Sprintf(`"Saved":%d,`, bootTime()-int64(time.Second))
	if err := os.WriteFile(filepath.Join(dir, memoryName), []byte(strings.Replace(string(text), `"Saved":1,`, saved, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := openMemory(dir)
	if err != nil || m.age < time.Second || m.age > time.Minute || m.devices["gnv0"].MTU != 1450 {
		t.Fatalf("%+v, %v", m, err)
	}
	defer m.close()
	far := netip.MustParseAddrPort("192.0.2.70:6081")
	want := []remembered{{
		vtep.TunnelMemory{
			Device: netio.DeviceOptions{Name: "gnv0", MTU: 1450}, VNI: 1,
			ByHand:       []vtep.Entry{{MAC: packet.MAC{2, 0, 0, 0, 0, 0x12}, Remote: netip.MustParseAddr("192.0.2.9"), State: fdb.Static}},
			Peers:        []vtep.PeerMemory{{Remote: far, Silent: 64 * time.Microsecond, Dynamic: true}},
			Destinations: []vtep.DestinationMemory{{Remote: far}, {Remote: netip.MustParseAddrPort("192.0.2.9:6081"), VNI: 5, HasVNI: true, NoPeer: true}},
		},
		[]vtep.Learned{
			{Segment: 1, MAC: packet.MAC{2, 0, 0, 0, 0, 0x0c}, To: 0, Moves: 3, Updated: time.Second, Used: 2 * time.Second},
			{Segment: 1, MAC: packet.MAC{2, 0, 0, 0, 0, 0x13}, To: 1, Flags: fdb.ExternLearn, Updated: time.Second, Used: time.Second},
			{Segment: 1, MAC: packet.MAC{2, 0, 0, 0, 0, 0x0a}, To: vtep.LocalDestination},
		},
	}}
	if d := differ(want, collect(m.all())); d != "" {
		t.Errorf("(-want +loaded)\n%s", d)
	}
}

// TestMemoryStreams: neither what is written nor what is read is ever held as a whole.
func TestMemoryStreams(t *testing.T) {
	const entries, most = 200_000, 2 << 20 // bytes allocated in all
	dir := t.TempDir()
	m := func(yield func(*vtep.TunnelMemory, iter.Seq[vtep.Learned]) bool) {
		yield(&vtep.TunnelMemory{Device: netio.DeviceOptions{Name: "gnv0"}}, func(yield func(vtep.Learned) bool) {
			for i := range entries {
				if !yield(vtep.Learned{MAC: macOf(int64(i))}) {
					return
				}
			}
		})
	}
	allocated := func(do func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	if n := allocated(func() {
		if err := saveMemory(dir, m); err != nil {
			t.Fatal(err)
		}
	}); n > most {
		t.Errorf("%d bytes allocated to save %d entries, want at most %d", n, entries, most)
	}
	read := 0
	if n := allocated(func() {
		m, err := openMemory(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer m.close()
		for _, table := range m.all() {
			for range table {
				read++
			}
		}
	}); n > most || read != entries {
		t.Errorf("%d bytes allocated to load %d entries of %d, want at most %d", n, read, entries, most)
	}
}
