package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// wireguardGo is pinned, so that ratios of two runs compare.
const wireguardGo = "golang.zx2c4.com/wireguard@v0.0.0-20260522210424-ecfc5a8d5446"

// contenderNames are all that there are. "busypoll" is gvtep, told to look for
// packets that long before it sleeps, "gvtep-vxlan" is gvtep with VXLAN's header, "fast" gvtep with the fast path on, and "options" gvtep
// with three options in each packet and a rule about each where it arrives.
// "relay" is no tunnel, but what one in a process cannot do without (relay.go).
var contenderNames = []string{"gvtep", "gvtep-vxlan", "options", "fast", "busypoll", "relay", "vxlan", "raw", "wireguard"}

// contender is one way between two hosts.
type contender struct {
	name      string
	bridgable bool // has an Ethernet device to put behind a bridge
	uncut     bool // carries super-frames only where the underlay does not cut them
	// up makes the tunnel devices and sets device and daemon of both ends.
	up func(ctx context.Context, dir string, s *site) error

	// second adds a tunnel between the two hosts and names its device. nil: it
	// cannot, or there would be nothing to see.
	second func(ctx context.Context, dir string, s *site) (device string, err error)

	// Of those that can carry many tunnels: the text of a file that describes
	// n of them, and what makes them from it.
	many   func(n int) string
	upMany func(ctx context.Context, dir, file string, s *site) error
}

// build builds the programs that are needed into dir and returns the contenders, and where gvtep is.
func build(ctx context.Context, dir string, o options) (out []contender, program string, err error) {
	program = o.gvtep
	ours := func(name string) bool {
		return name == "gvtep" || name == "gvtep-vxlan" || name == "options" || name == "fast" || name == "busypoll"
	}
	if program == "" && slices.ContainsFunc(o.contenders, ours) {
		program = filepath.Join(dir, "gvtep")
		logf("building gvtep")
		if err := goTool(ctx, dir, "build", "-trimpath", "-o", program, "./cmd/gvtep"); err != nil {
			return nil, "", err
		}
	}
	if program, err = filepath.Abs(program); err != nil {
		return nil, "", err
	}
	for _, name := range o.contenders {
		switch name {
		case "gvtep":
			out = append(out, gvtep(name, program, o.extra))
		case "gvtep-vxlan":
			c := gvtep(name, program, append(slices.Clone(o.extra), "--encap", "vxlan"))
			c.second, c.many, c.upMany = nil, nil, nil // as with GENEVE
			out = append(out, c)
		case "options":
			c := gvtep(name, program, append(slices.Clone(o.extra), "--options", "ff01:01:0000004d,ff01:02:@dscp,ff01:03:@src",
				"--match", "drop ff01:01:0000004e", "--match", "count ff01:02", "--match", "accept ff01:03", "--match", "drop any"))
			c.second, c.many, c.upMany = nil, nil, nil // as without
			out = append(out, c)
		case "fast":
			c := gvtep(name, program, append(slices.Clone(o.extra), "--fastpath", "on"))
			c.many, c.upMany = nil, nil
			up := c.up
			c.up = func(ctx context.Context, dir string, s *site) error {
				if err := up(ctx, dir, s); err != nil {
					return err
				}
				return served(ctx, program, dir, s, func(e *end) string { return e.device })
			}
			second := c.second
			c.second = func(ctx context.Context, dir string, s *site) (string, error) {
				device, err := second(ctx, dir, s)
				for _, e := range s.ends {
					if err == nil {
						_, err = command(ctx, program, "--control", filepath.Join(dir, e.host+".sock"), "tunnel", "set", device, "fastpath", "on")
					}
				}
				if err != nil {
					return "", err
				}
				return device, served(ctx, program, dir, s, func(*end) string { return device })
			}
			out = append(out, c)
		case "busypoll":
			c := gvtep(name, program, append(slices.Clone(o.extra), "--busypoll", "3ms"))
			c.many, c.upMany = nil, nil // idle tunnels are the same
			out = append(out, c)
		case "relay":
			out = append(out, relay)
		case "vxlan":
			out = append(out, vxlan)
		case "raw":
			out = append(out, raw)
		case "wireguard":
			logf("building %s", wireguardGo)
			if err := goTool(ctx, dir, "install", wireguardGo); err != nil {
				logf("without wireguard-go: %v", err)
				continue
			}
			out = append(out, wireguard(filepath.Join(dir, "wireguard")))
		}
	}
	return out, program, nil
}

// goTool runs the go command with dir for what it installs.
func goTool(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+dir)
	cmd.SysProcAttr = attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, tail(string(out)))
	}
	return nil
}

// raw is the veth itself.
var raw = contender{name: "raw", up: func(ctx context.Context, dir string, s *site) error {
	for _, e := range s.ends {
		e.device = underlayDevice
	}
	return nil
}}

// vxlan is the kernel's device, as "ip link add" makes it.
var vxlan = contender{name: "vxlan", bridgable: true, up: func(ctx context.Context, dir string, s *site) error {
	for i, e := range s.ends {
		e.device = "vxlan0"
		if err := addVXLAN(ctx, s, i, e.device, "100"); err != nil {
			return err
		}
	}
	return nil
}, second: func(ctx context.Context, dir string, s *site) (string, error) {
	const device = "vxlan1"
	return device, errors.Join(addVXLAN(ctx, s, 0, device, "101"), addVXLAN(ctx, s, 1, device, "101"))
}, many: func(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "link add vx%d type vxlan id %d dstport 4789 local 10.77.0.1 remote 10.77.0.2 dev %s\n", 1000+i, 1000+i, underlayDevice)
		fmt.Fprintf(&b, "addr add 10.%d.%d.1/24 dev vx%d\nlink set vx%d up\n", 100+i/256, i%256, 1000+i, 1000+i)
	}
	return b.String()
}, upMany: func(ctx context.Context, dir, file string, s *site) error {
	return s.ip(ctx, s.ends[0].host, "-batch", file)
}}

// addVXLAN makes the device of one end.
func addVXLAN(ctx context.Context, s *site, end int, device, id string) error {
	e, far := s.ends[end], s.ends[1-end]
	return s.ip(ctx, e.host, "link", "add", device, "type", "vxlan", "id", id, "dstport", "4789",
		"local", e.underlay.String(), "remote", far.underlay.String(), "dev", underlayDevice)
}

func gvtep(name, program string, extra []string) contender {
	return contender{name: name, bridgable: true, up: func(ctx context.Context, dir string, s *site) (err error) {
		for i, e := range s.ends {
			e.device = "gnv0"
			control := filepath.Join(dir, e.host+".sock")
			args := append([]string{program, "--control", control, "run", e.device, "--id", "100",
				"--local", e.underlay.String(), "--remote", s.ends[1-i].underlay.String()}, extra...)
			if e.daemon, err = start(e.host, args...); err != nil {
				return err
			}
			err = e.daemon.until(ctx, "ready", func() bool {
				_, err := command(ctx, program, "--control", control, "wait", e.device, "--for", "ready")
				return err == nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	}, second: func(ctx context.Context, dir string, s *site) (string, error) {
		const device = "gnv1"
		for i, e := range s.ends {
			_, err := command(ctx, program, "--control", filepath.Join(dir, e.host+".sock"), "tunnel", "add", device, "id", "101",
				"local", e.underlay.String(), "remote", s.ends[1-i].underlay.String())
			if err != nil {
				return "", err
			}
		}
		return device, nil
	}, many: func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "[[tunnel]]\nname = \"gnv%d\"\nid = %d\nlocal = \"10.77.0.1\"\nremote = \"10.77.0.2\"\n", 1000+i, 1000+i)
			fmt.Fprintf(&b, "address = [\"10.%d.%d.1/24\"]\n", 100+i/256, i%256)
		}
		return b.String()
	}, upMany: func(ctx context.Context, dir, file string, s *site) (err error) {
		e := s.ends[0]
		control := filepath.Join(dir, e.host+".sock")
		config := file + ".toml"
		if err := os.Rename(file, config); err != nil {
			return err
		}
		if e.daemon, err = start(e.host, program, "--control", control, "run", "--config", config); err != nil {
			return err
		}
		return e.daemon.until(ctx, "ready", func() bool {
			_, err := command(ctx, program, "--control", control, "--timeout", "19s", "wait", "--for", "ready")
			return err == nil
		})
	}}
}

// served waits until the fast path carries the tunnel at both ends.
func served(ctx context.Context, program, dir string, s *site, device func(*end) string) error {
	for _, e := range s.ends {
		err := e.daemon.until(ctx, "served by the fast path", func() bool {
			out, err := command(ctx, program, "--control", filepath.Join(dir, e.host+".sock"), "show", device(e))
			return err == nil && strings.Contains(out, "serves "+underlayDevice)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// wireguard is wireguard-go. It is configured over its local socket, so the
// wg program is not needed.
func wireguard(program string) contender {
	return contender{name: "wireguard", up: func(ctx context.Context, dir string, s *site) error {
		const port = 51820
		var keys [2]*ecdh.PrivateKey
		for i := range keys {
			key, err := ecdh.X25519().GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			keys[i] = key
		}
		for i, e := range s.ends {
			// Its socket is named after the device and all namespaces share the
			// file system: the names must differ.
			e.device = fmt.Sprintf("wgb%d%c", os.Getpid(), 'a'+i)
			socket := "/var/run/wireguard/" + e.device + ".sock"
			s.after = append(s.after, func() { os.Remove(socket) })
			var err error
			if e.daemon, err = start(e.host, program, "-f", e.device); err != nil {
				return err
			}
			err = e.daemon.until(ctx, "listening on "+socket, func() bool {
				c, err := net.Dial("unix", socket)
				if err == nil {
					c.Close()
				}
				return err == nil
			})
			if err != nil {
				return err
			}
			peer := s.ends[1-i]
			answer, err := ask(socket, fmt.Sprintf(
				"set=1\nprivate_key=%x\nlisten_port=%d\npublic_key=%x\nendpoint=%s:%d\nallowed_ip=%s/32\n\n",
				keys[i].Bytes(), port, keys[1-i].PublicKey().Bytes(), peer.underlay, port, peer.addr))
			if err != nil || !strings.Contains(answer, "errno=0\n") {
				return fmt.Errorf("wireguard-go does not take its configuration: %q %v", answer, err)
			}
		}
		return nil
	}}
}
