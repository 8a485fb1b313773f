package main

import (
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts run this binary as gvtep-evpn.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"gvtep-evpn": func() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

func TestScripts(t *testing.T) { testscript.Run(t, testscript.Params{Dir: "testdata"}) }

// TestHelp: every command is in it.
func TestHelp(t *testing.T) {
	var out strings.Builder
	if code := execute([]string{"--help"}, &out, os.Stderr); code != 0 {
		t.Fatal(code)
	}
	for _, c := range commands() {
		if !strings.Contains(out.String(), "  "+c.name) || !strings.Contains(out.String(), c.help) {
			t.Errorf("help has nothing of %s", c.name)
		}
	}
}
