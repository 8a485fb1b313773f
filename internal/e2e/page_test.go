package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPage: a browser shows what a scrape says: tunnels, peers with their states, drops and the graph; a name that is
// markup stays text. With GVTEP_E2E_SHOTS=DIR it leaves pictures at the width of a telephone and of a desk.
func TestPage(t *testing.T) {
	if !long() {
		t.Skip("GVTEP_E2E_LONG=1 starts a browser")
	}
	need(t, "chromium", "ping")
	a, b := underlay(t)
	config := filepath.Join(t.TempDir(), "page.toml")
	const evil = `<img src=x onerror=document.title='evil'>`
	text := fmt.Sprintf(`[metrics]
listen = "127.0.0.1:9681"
page = true
[[tunnel]]
name = "gnv0"
id = 42
local = "10.77.0.1"
address = "192.0.2.1/24"
[[tunnel.peer]]
remote = "10.77.0.2"
name = "leaf2"
[[tunnel.peer]]
remote = "10.77.0.3"
name = "%s"
`, evil)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g := a.configured("gnv0", config)
	gb := b.tunnel("gnv0", strings.Fields(wordsB)...)
	gb.cli("tunnel", "add", "gnv9", "id", "43", "local", "10.77.0.2", "remote", "10.77.0.1", "address", "192.0.9.2/24")
	b.start(nil, "ping", "-q", "-i", "0.2", "-c", "600", "192.0.2.1")
	b.start(nil, "ping", "-q", "-i", "0.2", "-c", "600", "192.0.9.1") // of a VNI that a does not have
	within(t, 20*time.Second, "traffic and refusals", func() bool {
		out := a.ok(5*time.Second, g.binary, "-i", g.instance, "metrics")
		return strings.Contains(out, `state="heard",vni="42"} 1`) && sample(out, `gvtep_dropped_packets_total{device="",direction="receive",reason="unknown_vni"}`) > 0
	})

	browser := func(args ...string) string {
		home := t.TempDir()
		out, errs, code := a.browse(home, append(args, "http://127.0.0.1:9681/page/")...)
		if code != 0 {
			t.Fatalf("chromium %v: exit status %d\n%s", args, code, errs)
		}
		return out
	}
	// Virtual time runs ahead while nothing is waited for, so that the page has looked several times.
	dom := browser("--virtual-time-budget=6000", "--dump-dom")
	for _, want := range []string{
		`class="good">ready<`, `<td data-label="Device">gnv0</td>`, `">heard</td>`, "leaf2 10.77.0.2",
		`>silent</td>`, "unknown_vni", "no tunnel has this VNI", "&lt;img src=x onerror=", "gnv0 10.77.0.2: heard", `<line class="bad"`, `class="chart"`,
	} {
		if !strings.Contains(dom, want) {
			t.Errorf("no %s in the page", want)
		}
	}
	if strings.Contains(dom, "<img") || strings.Contains(dom, "<title>evil") {
		t.Error("a name has become markup")
	}
	if t.Failed() {
		t.Logf("%s", dom)
	}
	if dir := os.Getenv("GVTEP_E2E_SHOTS"); dir != "" {
		for name, size := range map[string]string{"phone": "500,1800", "desk": "1280,1000"} {
			browser("--virtual-time-budget=60000", "--hide-scrollbars", "--window-size="+size, "--screenshot="+filepath.Join(dir, name+".png"))
		}
	}
}

// browse runs a browser without a window, in the host's namespace and without a sandbox, as it is root here.
func (h *host) browse(home string, args ...string) (out, errs string, code int) {
	h.t.Helper()
	p := h.start(func(c *exec.Cmd) { c.Env = append(c.Env, "HOME="+home) }, "chromium", append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--user-data-dir=" + home,
	}, args...)...)
	code, err := p.wait(3 * time.Minute)
	if err != nil {
		h.t.Fatalf("chromium: %v\n%s", err, p.stderr.String())
	}
	return p.stdout.String(), p.stderr.String(), code
}
