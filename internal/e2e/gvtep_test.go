package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// gvtep is a running gvtep process, and the tunnel that a test looks at.
type gvtep struct {
	*program
	h        *host
	binary   string
	instance string
	dev      string
	http     http.Client
}

// built is the built program.
func built(t *testing.T) string {
	t.Helper()
	path, err := suite.plain()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// newInstance returns a name that no other instance on this machine has.
func newInstance() string {
	return fmt.Sprintf("e2e-%d-%d", os.Getpid(), suite.instances.Add(1))
}

func runDir(instance string) string { return filepath.Join("/run/gvtep", instance) }

// tunnel starts a gvtep and waits until it is ready.
func (h *host) tunnel(dev string, words ...string) *gvtep {
	h.t.Helper()
	g := h.launch(built(h.t), newInstance(), dev, words...)
	g.ready()
	return g
}

// launch starts a gvtep.
func (h *host) launch(binary, instance, dev string, words ...string) *gvtep {
	h.t.Helper()
	return h.daemon(binary, instance, dev, append([]string{dev}, words...)...)
}

// configured starts a gvtep with the tunnels of a configuration and waits
// until they are ready. dev is the one that ready, counters and fdb are about.
func (h *host) configured(dev, path string, words ...string) *gvtep {
	h.t.Helper()
	g := h.daemon(built(h.t), newInstance(), dev, append([]string{"--config", path}, words...)...)
	g.ready()
	return g
}

// daemon starts gvtep run.
func (h *host) daemon(binary, instance, dev string, words ...string) *gvtep {
	h.t.Helper()
	args := append([]string{"-i", instance, "run"}, words...)
	if fastpath() && !slices.Contains(args, "--config") && !slices.Contains(args, "--fastpath") {
		args = append(args, "--fastpath", "on")
	}
	g := newClient(h, binary, instance, dev)
	g.program = h.start(nil, binary, args...)
	h.t.Cleanup(g.cleanup)
	return g
}

// newClient asks an instance that is still to be started.
func newClient(h *host, binary, instance, dev string) *gvtep {
	g := &gvtep{h: h, binary: binary, instance: instance, dev: dev}
	g.http.Timeout = 5 * time.Second
	g.http.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(runDir(instance), "control.sock"))
	}}
	return g
}

// cleanup removes what is left of it after a kill, when nobody else does.
func (g *gvtep) cleanup() {
	g.end(syscall.SIGKILL, 10*time.Second)
	os.RemoveAll(runDir(g.instance))
	os.Remove(runDir("")) // if it is empty
}

// ready waits with the command that is made for it.
func (g *gvtep) ready() {
	g.h.t.Helper()
	g.h.ok(15*time.Second, g.binary, "-i", g.instance, "wait", g.dev, "--for", "ready", "--timeout", "10s")
	if fastpath() {
		within(g.h.t, 20*time.Second, "the fast path has started", func() bool { f := g.fast(); return f == nil || f.Reason != "starting" })
	}
}

// stop ends it in good order and returns how long that took.
func (g *gvtep) stop() time.Duration {
	g.h.t.Helper()
	start := time.Now()
	code, err := g.end(syscall.SIGTERM, 10*time.Second)
	if err != nil || code != 0 {
		g.h.t.Fatalf("gvtep on %s after SIGTERM: exit status %d, %v; want 0\n%s", g.h.name, code, err, g.stderr.String())
	}
	return g.ended.Sub(start)
}

// ask reads one answer of the control socket.
func (g *gvtep) ask(path string, v any) error {
	resp, err := g.http.Get("http://gvtep" + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

// The keys of the answers that the tests look at, written down once more: they
// are promised to stay.
type drops struct {
	RX map[string]int `json:"rx"`
	TX map[string]int `json:"tx"`
}

type statusAnswer struct {
	Ready bool  `json:"ready"`
	PID   int   `json:"pid"`
	Drops drops `json:"drops"`
	Go    struct {
		HeapObjects *int64 `json:"heap_objects"`
	} `json:"go"`
}

type tunnelAnswer struct {
	Ifname string `json:"ifname"`
	MTU    int    `json:"mtu"`
	Info   struct {
		Kind string `json:"info_kind"`
		Data struct {
			ID   int `json:"id"`
			Port int `json:"port"`
		} `json:"info_data"`
	} `json:"linkinfo"`
	Stats struct {
		RX, TX struct{ Packets int }
	} `json:"stats64"`
	Gvtep struct {
		Drops drops `json:"drops"`
	} `json:"gvtep"`
}

type fdbAnswer struct {
	MAC   string `json:"mac"`
	Dst   string `json:"dst"`
	State string `json:"state"`
	Gvtep struct {
		Local bool `json:"local"`
	} `json:"gvtep"`
}

// counters are all counters of a gvtep by name: rx.packets and tx.packets of
// the tunnel, and rx.REASON and tx.REASON of all drops, those of the tunnel
// and those that belong to none added up.
type counters map[string]int

func (g *gvtep) counters() counters {
	g.h.t.Helper()
	var s statusAnswer
	var tun tunnelAnswer
	if err := g.ask("/v1/status", &s); err != nil {
		g.h.t.Fatal(err)
	}
	if err := g.ask("/v1/tunnels/"+g.dev, &tun); err != nil {
		g.h.t.Fatal(err)
	}
	c := counters{"rx.packets": tun.Stats.RX.Packets, "tx.packets": tun.Stats.TX.Packets}
	for _, d := range []drops{s.Drops, tun.Gvtep.Drops} {
		for reason, n := range d.RX {
			c["rx."+reason] += n
		}
		for reason, n := range d.TX {
			c["tx."+reason] += n
		}
	}
	return c
}

// since is what has moved from one state to a later one.
func (c counters) since(old counters) counters {
	moved := counters{}
	for name, n := range c {
		if n != old[name] {
			moved[name] = n - old[name]
		}
	}
	return moved
}

// moved waits until counters have moved from before as wanted, and a little
// longer so that a wrong one can move, too; it returns what has moved.
func (g *gvtep) moved(before counters, want ...string) counters {
	g.h.t.Helper()
	soon(5*time.Second, func() bool {
		now := g.counters().since(before)
		for _, name := range want {
			if now[name] != 0 {
				return true
			}
		}
		return len(want) == 0
	})
	time.Sleep(5 * time.Millisecond)
	return g.counters().since(before)
}

// fdb returns the forwarding entries, the flood list's included.
func (g *gvtep) fdb() (entries []fdbAnswer) {
	g.h.t.Helper()
	if err := g.ask("/v1/fdb?dev="+g.dev, &entries); err != nil {
		g.h.t.Fatal(err)
	}
	return entries
}

// behind returns the peer behind which an address is, "local" for our own
// side, "" if it is not known.
func (g *gvtep) behind(m mac) string {
	g.h.t.Helper()
	for _, e := range g.fdb() {
		if e.MAC == m.String() {
			if e.Gvtep.Local {
				return "local"
			}
			return e.Dst
		}
	}
	return ""
}

// TestShow: the words and keys that scripts rely on.
//
//	a gnv0 192.0.2.1 ==== VNI 42 ==== 192.0.2.2 gnv0 b
func TestShow(t *testing.T) {
	need(t, "ping")
	a, b := underlay(t)
	g := a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--address", "192.0.2.1/24")
	// The tail of an ip link line, bare words.
	b.tunnel("gnv0", "type", "geneve", "id", "42", "remote", "10.77.0.1", "address", "192.0.2.2/24")
	a.ok(10*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", "2", "192.0.2.2")

	var tunnels []tunnelAnswer
	decode := func(v any, args ...string) {
		t.Helper()
		text := a.ok(5*time.Second, g.binary, append([]string{"-i", g.instance, "-j"}, args...)...)
		if err := json.Unmarshal([]byte(text), v); err != nil {
			t.Fatalf("gvtep -j %s: %v in %s", strings.Join(args, " "), err, text)
		}
	}
	decode(&tunnels, "show")
	if len(tunnels) != 1 || tunnels[0].Ifname != "gnv0" || tunnels[0].Info.Kind != "geneve" ||
		tunnels[0].Info.Data.ID != 42 || tunnels[0].Info.Data.Port != 6081 || tunnels[0].MTU != 1450 {
		t.Errorf("gvtep -j show: %+v, want gnv0, geneve, id 42, port 6081, mtu 1450", tunnels)
	}
	var s statusAnswer
	decode(&s, "status")
	if !s.Ready || s.PID != g.cmd.Process.Pid {
		t.Errorf("gvtep -j status: ready %t, pid %d; want true, %d", s.Ready, s.PID, g.cmd.Process.Pid)
	}
	var entries []fdbAnswer
	decode(&entries, "fdb", "show", "dev", "gnv0")
	there := b.mac("gnv0").String()
	var flood, learned bool
	for _, e := range entries {
		flood = flood || e.MAC == "00:00:00:00:00:00" && e.Dst == "10.77.0.2"
		learned = learned || e.MAC == there && e.Dst == "10.77.0.2" && e.State == ""
	}
	if !flood || !learned {
		t.Errorf("gvtep -j fdb show: %+v, want the flood entry and %s, both at 10.77.0.2", entries, there)
	}
	for _, args := range [][]string{{"show"}, {"fdb", "show"}, {"status"}, {"version"}, {"completion", "bash"}} {
		if a.ok(5*time.Second, g.binary, append([]string{"-i", g.instance}, args...)...) == "" {
			t.Errorf("gvtep %s: no output", strings.Join(args, " "))
		}
	}
	// Clients without a daemon, and with too little time.
	for _, c := range []struct {
		code int
		args []string
	}{
		{3, []string{"-i", "e2e-nobody", "show"}},
		{4, []string{"-i", g.instance, "wait", "gnv0", "--for", "mac=02:00:00:00:00:99", "--timeout", "0.2s"}},
		{2, []string{"-i", g.instance, "show", "gnv9"}},
		{1, []string{"shwo"}},
	} {
		_, stderr, code := a.run(5*time.Second, g.binary, c.args...)
		if code != c.code || !oneLine(stderr) {
			t.Errorf("gvtep %s: exit status %d, want %d, and one line: %q", strings.Join(c.args, " "), code, c.code, stderr)
		}
	}
}

// oneLine reports whether text is one line in our voice.
func oneLine(text string) bool {
	return strings.HasPrefix(text, "gvtep: ") && strings.Count(text, "\n") == 1 && strings.HasSuffix(text, "\n") && len(text) < 400
}

// as lets a command run as another user.
func as(uid uint32) func(*exec.Cmd) {
	return func(c *exec.Cmd) { c.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid} }
}
