package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The longest that a command which only sets something up may take.
const patience = 20 * time.Second

// command runs a program to its end and returns what it printed.
func command(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = attributes()
	cmd.WaitDelay = time.Second
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(complaints.String() + out.String())
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, tail(said))
	}
	return out.String(), nil
}

// attributes keep a ^C of the terminal away from our children, so that they
// end in our order, and end them when we are killed.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// tail is the end of s, for an error of one line.
func tail(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return s[max(0, len(s)-300):]
}

// process is a program that runs beside us.
type process struct {
	cmd    *exec.Cmd
	output bytes.Buffer  // complete when done is closed
	done   chan struct{} // closed at its end
}

// start starts a program in a namespace. "ip netns exec" becomes the program,
// so the pid is that of the program itself.
func start(ns string, args ...string) (*process, error) {
	p := &process{done: make(chan struct{})}
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...)
	p.cmd.SysProcAttr = attributes()
	p.cmd.WaitDelay = time.Second
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends it, kindly first.
func (p *process) stop() {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		p.cmd.Process.Signal(sig)
		select {
		case <-p.done:
			return
		case <-time.After(5 * time.Second):
		}
	}
}

// until waits for a condition while p lives.
func (p *process) until(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !ok() {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before %s: %s", strings.Join(p.cmd.Args[4:], " "), what, tail(p.output.String()))
		case <-ctx.Done():
			return fmt.Errorf("%s: not %s: %w", strings.Join(p.cmd.Args[4:], " "), what, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// The underlay device in both hosts, the bridge, and the sides of a
// container's veth.
const (
	underlayDevice  = "u0"
	bridgeDevice    = "br0"
	portDevice      = "c0"
	containerDevice = "eth0"
)

// end is one of the two hosts of a lab.
type end struct {
	host     string     // namespace of the tunnel device
	load     string     // namespace of the load: the host, or a container behind its bridge
	underlay netip.Addr // what the tunnel speaks from
	addr     netip.Addr // what the load speaks from
	device   string     // the tunnel device
	daemon   *process   // nil: the kernel carries the tunnel
}

// site is one contender, set up in one lab.
//
//	plain     load - tunnel device ) veth ( tunnel device - load
//	bridged   load - veth - bridge - tunnel device ) veth ( and so on
type site struct {
	ends       [2]*end
	namespaces []string
	after      []func() // undo what a namespace does not take with it
}

// newSite makes two hosts with a veth between them, the contender's tunnel
// over it, and waits until a ping gets through. Whatever happens, close must
// be called.
func newSite(ctx context.Context, dir, lab string, c contender, bridged bool) (*site, error) {
	s := &site{}
	for i, side := range []string{"a", "b"} {
		e := &end{
			host:     fmt.Sprintf("%s%d-%s", prefix, os.Getpid(), side),
			underlay: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}),
			addr:     netip.AddrFrom4([4]byte{10, 78, 0, byte(i + 1)}),
		}
		e.load = e.host
		if bridged {
			e.load = fmt.Sprintf("%s%d-c%s", prefix, os.Getpid(), side)
			if err := s.namespace(ctx, e.load); err != nil {
				return s, err
			}
		}
		if err := s.namespace(ctx, e.host); err != nil {
			return s, err
		}
		s.ends[i] = e
	}
	err := s.ip(ctx, s.ends[0].host, "link", "add", underlayDevice, "type", "veth", "peer", "name", underlayDevice, "netns", s.ends[1].host)
	for _, e := range s.ends {
		err = errors.Join(err,
			s.ip(ctx, e.host, "addr", "add", e.underlay.String()+"/24", "dev", underlayDevice),
			s.ip(ctx, e.host, "link", "set", underlayDevice, "up"))
		if lab != "veth" {
			err = errors.Join(err, cutAtSender(ctx, e.host, lab))
		}
	}
	if err != nil {
		return s, err
	}
	if err := c.up(ctx, dir, s); err != nil {
		return s, err
	}
	for _, e := range s.ends {
		if err := s.attach(ctx, e, bridged); err != nil {
			return s, err
		}
	}
	return s, s.answers(ctx)
}

// prefix begins the names of our namespaces: they tell whose they are.
const prefix = "gvbench"

// sweep removes the namespaces of benchmarks that were killed.
func sweep(ctx context.Context) {
	entries, _ := os.ReadDir("/run/netns")
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), prefix)
		pid, _, _ := strings.Cut(rest, "-")
		if n, err := strconv.Atoi(pid); !ours || err != nil || syscall.Kill(n, 0) != syscall.ESRCH {
			continue
		}
		logf("removing %s of a benchmark that was killed", e.Name())
		if _, err := command(ctx, "ip", "netns", "del", e.Name()); err != nil {
			logf("%v", err)
		}
	}
}

func (s *site) namespace(ctx context.Context, name string) error {
	if _, err := command(ctx, "ip", "netns", "add", name); err != nil {
		return err
	}
	s.namespaces = append(s.namespaces, name)
	return s.ip(ctx, name, "link", "set", "lo", "up")
}

func (s *site) ip(ctx context.Context, ns string, args ...string) error {
	_, err := command(ctx, append([]string{"ip", "-n", ns}, args...)...)
	return err
}

// cutAtSender makes packets of the MTU cross a veth, as they cross a wire:
// the sender cuts, and the receiver may join again. A veth that keeps its
// offloads hands over 64 KiB super-packets uncut. In lab "nic" the checksums are made by the
// sender, too, so that what arrives has no mark of the sender's stack, as from a card.
func cutAtSender(ctx context.Context, ns, lab string) error {
	want := map[string]string{
		"tcp-segmentation-offload":     "off",
		"generic-segmentation-offload": "off",
		"tx-udp-segmentation":          "off",
		"generic-receive-offload":      "on",
	}
	if lab == "nic" {
		want["tx-checksumming"] = "off"
	}
	args := []string{"ip", "netns", "exec", ns, "ethtool", "-K", underlayDevice}
	for feature, value := range want {
		args = append(args, feature, value)
	}
	if _, err := command(ctx, args...); err != nil {
		return err
	}
	out, err := command(ctx, "ip", "netns", "exec", ns, "ethtool", "-k", underlayDevice)
	if err != nil {
		return err
	}
	for feature, value := range want {
		if !strings.Contains(out, feature+": "+value) {
			return fmt.Errorf("lab %s: %s of a veth cannot be turned %s here", lab, feature, value)
		}
	}
	return nil
}

// attach puts the load's address on the tunnel device, or on a container
// behind a bridge with that device.
func (s *site) attach(ctx context.Context, e *end, bridged bool) error {
	if e.load == e.host {
		return errors.Join(
			s.ip(ctx, e.host, "link", "set", e.device, "up"),
			s.ip(ctx, e.host, "addr", "add", e.addr.String()+"/24", "dev", e.device))
	}
	mtu, err := linkOf(ctx, e.host, e.device)
	if err != nil {
		return err
	}
	return errors.Join(
		s.ip(ctx, e.host, "link", "add", bridgeDevice, "type", "bridge"),
		s.ip(ctx, e.host, "link", "add", portDevice, "mtu", fmt.Sprint(mtu.MTU), "type", "veth", "peer", "name", containerDevice, "mtu", fmt.Sprint(mtu.MTU), "netns", e.load),
		s.ip(ctx, e.host, "link", "set", portDevice, "master", bridgeDevice, "up"),
		s.ip(ctx, e.host, "link", "set", e.device, "master", bridgeDevice, "up"),
		s.ip(ctx, e.host, "link", "set", bridgeDevice, "up"),
		s.ip(ctx, e.load, "link", "set", containerDevice, "up"),
		s.ip(ctx, e.load, "addr", "add", e.addr.String()+"/24", "dev", containerDevice))
}

// answers returns when a ping has come back.
func (s *site) answers(ctx context.Context) (err error) {
	for range 10 {
		_, err = command(ctx, "ip", "netns", "exec", s.ends[0].load, "ping", "-q", "-c", "1", "-W", "1", s.ends[1].addr.String())
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return err
}

// close removes all of it, also after the context has ended.
func (s *site) close() {
	ctx := context.Background()
	for _, e := range s.ends {
		if e != nil && e.daemon != nil {
			e.daemon.stop()
		}
	}
	for _, undo := range s.after {
		undo()
	}
	for _, ns := range s.namespaces {
		if _, err := command(ctx, "ip", "netns", "del", ns); err != nil {
			logf("left behind: %v", err)
		}
	}
}

// link is what "ip -s link" tells about a device.
type link struct {
	MTU   int
	Stats struct {
		Rx struct{ Bytes, Packets float64 }
	} `json:"stats64"`
}

func linkOf(ctx context.Context, ns, device string) (link, error) {
	out, err := command(ctx, "ip", "-n", ns, "-j", "-s", "link", "show", "dev", device)
	if err != nil {
		return link{}, err
	}
	var links []link
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) != 1 {
		return link{}, fmt.Errorf("ip -j -s link show dev %s: not understood: %s", device, tail(out))
	}
	return links[0], nil
}

// ask sends a request over a local socket and returns the answer, up to an
// empty line.
func ask(path, request string) (string, error) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte(request)); err != nil {
		return "", err
	}
	var answer []byte
	for buf := make([]byte, 4096); !bytes.HasSuffix(answer, []byte("\n\n")); {
		n, err := c.Read(buf)
		if err != nil {
			return string(answer), err
		}
		answer = append(answer, buf[:n]...)
	}
	return string(answer), nil
}
