package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"gvtep/cmd/internal/build"
	"gvtep/cmd/internal/control"
	"gvtep/internal/evpn"
)

var errUnreachable = errors.New("agent not reachable")

// reasons are those that a route is not installed for.
var reasons = []evpn.Reason{
	evpn.NoSegment, evpn.NotImported, evpn.WrongEncap, evpn.BadNextHop, evpn.BadFlooding, evpn.BadStation, evpn.OtherMode, evpn.HasGateway, evpn.Ours, evpn.TooMany,
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// linkName is the name of a device, by its index. Names that were asked for are remembered in names.
func linkName(names map[string]string, index string) string {
	if _, known := names[index]; !known {
		names[index] = index
		if n, err := strconv.Atoi(index); err == nil {
			if l, err := net.InterfaceByIndex(n); err == nil {
				names[index] = l.Name
			}
		}
	}
	return names[index]
}

// socket is that of the agent to ask.
func (a *app) socket() (string, error) {
	if a.control != "" {
		return a.control, nil
	}
	if a.instance != "" {
		return control.SocketPath(runDir, a.instance), nil
	}
	live, err := control.Instances(runDir)
	switch {
	case err != nil:
		return "", err
	case len(live) == 0:
		return "", fmt.Errorf("%w: none runs; start one with gvtep-evpn run", errUnreachable)
	case len(live) > 1:
		return "", usageError{"there are several agents: say which with -i: " + strings.Join(live, ", ")}
	}
	return control.SocketPath(runDir, live[0]), nil
}

// ask calls the agent and has the answer read.
func (a *app) ask(method, path string, limit time.Duration, read func(io.Reader) error) error {
	socket, err := a.socket()
	if err != nil {
		return err
	}
	client := http.Client{Timeout: limit, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequest(method, "http://gvtep-evpn"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return fmt.Errorf("%w: %s: %w", errUnreachable, socket, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var body struct{ Error string }
		if json.NewDecoder(resp.Body).Decode(&body) != nil || body.Error == "" {
			body.Error = resp.Status
		}
		return errors.New(body.Error)
	}
	return read(resp.Body)
}

const askLimit = 20 * time.Second

func (a *app) get(path string, to any) error {
	return a.ask(http.MethodGet, path, askLimit, func(r io.Reader) error { return json.NewDecoder(r).Decode(to) })
}

func (a *app) print(v any) error { return json.NewEncoder(a.out).Encode(v) }

func (a *app) statusCmd([]string) error {
	var s status
	if err := a.get("/v1/status", &s); err != nil {
		return err
	}
	if a.json {
		return a.print(s)
	}
	gvtep := "answers"
	if !s.Gvtep {
		gvtep = "does not answer"
	}
	fmt.Fprintf(a.out, "gvtep-evpn %s %s  AS %d  router-id %s  up %s  gvtep %s\n", s.Instance, s.Version, s.ASN, s.RouterID, age(s.Uptime), gvtep)
	a.peers(s.Neighbors)
	w := a.table("VNI", "DEVICE", "ENCAP", "MODE", "LOCAL", "RD", "VTEPS", "LOCAL MACS", "REMOTE MACS", "NETWORKS", "DUPLICATES")
	for _, g := range s.Segments {
		w.row(decimal(g.VNI), g.Ifname, g.Encap, g.Mode, g.Local, g.RD, g.VTEPs, g.LocalMAC, g.Remote, g.Networks, g.Frozen)
	}
	w.Flush()
	fmt.Fprintf(a.out, "routes: %d mac, %d imet, %d prefix; %d installed, %d leaving\n", s.Routes["mac"], s.Routes["imet"], s.Routes["prefix"], s.Installed, s.Leaving)
	for _, reason := range slices.Sorted(maps.Keys(s.Refused)) {
		fmt.Fprintf(a.out, "not installed: %d by %s\n", s.Refused[reason], reason)
	}
	return nil
}

func age(seconds float64) string { return (time.Duration(seconds) * time.Second).String() }

// rows is a table of columns.
type rows struct{ *tabwriter.Writer }

func (a *app) table(head ...any) rows {
	w := rows{tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)}
	w.row(head...)
	return w
}

func (w rows) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		if c == "" {
			c = "-"
		}
		fmt.Fprint(w, c)
	}
	fmt.Fprintln(w)
}

func (a *app) peers(list []neighbor) {
	w := a.table("NEIGHBOR", "AS", "STATE", "UP", "RECEIVED", "SENT", "FLAPS", "LAST ERROR")
	for _, n := range list {
		w.row(n.Addr, n.ASN, n.State, age(n.Uptime), n.Received, n.Sent, n.Flaps, n.Error)
	}
	w.Flush()
}

// filter is what show's words choose.
type filter struct {
	vni  *uint32
	kind string
}

func (f *filter) takes(vni uint32, kind string) bool {
	return (f.vni == nil || *f.vni == vni) && (f.kind == "" || f.kind == kind)
}

func parseFilter(words []string, kinds ...string) (f filter, err error) {
	for ; len(words) >= 2; words = words[2:] {
		switch {
		case words[0] == "vni":
			n, err := strconv.ParseUint(words[1], 10, 24)
			if err != nil {
				return f, usageError{fmt.Sprintf("vni %s: want a number from 0 to 16777215", words[1])}
			}
			vni := uint32(n)
			f.vni = &vni
		case words[0] == "type" && slices.Contains(kinds, words[1]):
			f.kind = words[1]
		case words[0] == "type" && len(kinds) > 0:
			return f, usageError{fmt.Sprintf("type %s: want %s", words[1], strings.Join(kinds, ", "))}
		default:
			return f, usageError{fmt.Sprintf("show: there is no word %q here", words[0])}
		}
	}
	if len(words) > 0 {
		return f, usageError{fmt.Sprintf("show: %s: a value is missing", words[0])}
	}
	return f, nil
}

func (a *app) showCmd(args []string) error {
	switch args[0] {
	case "routes":
		f, err := parseFilter(args[1:], "mac", "imet", "prefix")
		if err != nil {
			return err
		}
		return a.showRoutes(f)
	case "mac":
		f, err := parseFilter(args[1:], "local", "remote")
		if err != nil {
			return err
		}
		return a.showMAC(f)
	case "peers":
		if len(args) > 1 {
			return usageError{"show peers takes no words"}
		}
		var list []neighbor
		if err := a.get("/v1/peers", &list); err != nil {
			return err
		}
		if a.json {
			return a.print(list)
		}
		a.peers(list)
		return nil
	}
	return usageError{fmt.Sprintf("show %s: want routes, mac or peers", args[0])}
}

func (a *app) showRoutes(f filter) error {
	var list []routeView
	if err := a.get("/v1/routes", &list); err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(r routeView) bool { return !f.takes(r.VNI, r.Type) })
	if a.json {
		return a.print(list)
	}
	w := a.table("VNI", "TYPE", "WHAT", "RD", "NEXT HOP", "ENCAP", "RT", "SEQ", "STATE")
	for _, r := range list {
		state := "in " + r.Ifname
		switch {
		case r.Refused != "":
			state = "not installed: " + r.Refused
		case r.Leaving:
			state += ", leaving"
		}
		w.row(decimal(r.VNI), r.Type, strings.TrimSpace(r.MAC+" "+r.IP+r.Prefix), r.RD, r.NextHop, r.Encap, strings.Join(r.Targets, ","), r.Seq, state)
	}
	return w.Flush()
}

// showMAC prints, as JSON, the object that FRR has for a VNI, or one of those by VNI.
func (a *app) showMAC(f filter) error {
	var list []macView
	if err := a.get("/v1/mac", &list); err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(m macView) bool { return !f.takes(m.VNI, m.Type) })
	if !a.json {
		w := a.table("VNI", "MAC", "TYPE", "WHERE", "SEQ", "ADDRESSES", "STATE")
		for _, m := range list {
			seq, state := m.RemoteSeq, ""
			if m.Type == "local" {
				seq = m.LocalSeq
			}
			if m.Duplicate {
				state = "duplicate"
			}
			w.row(decimal(m.VNI), m.MAC, m.Type, m.Intf+m.VTEP, seq, strings.Join(m.Neighbors, ","), state)
		}
		return w.Flush()
	}
	type ofVNI struct {
		Num  int                `json:"numMacs"`
		MACs map[string]macView `json:"macs"`
	}
	all := map[string]ofVNI{}
	for _, m := range list {
		v, ok := all[decimal(m.VNI)]
		if !ok {
			v.MACs = map[string]macView{}
		}
		v.Num++
		v.MACs[m.MAC] = m
		all[decimal(m.VNI)] = v
	}
	if f.vni == nil {
		return a.print(all)
	}
	one := all[decimal(*f.vni)]
	if one.MACs == nil {
		one.MACs = map[string]macView{}
	}
	return a.print(one)
}

func (a *app) clearCmd(args []string) error {
	return a.ask(http.MethodDelete, "/v1/mac/"+url.PathEscape(args[0])+"/duplicate", askLimit, func(io.Reader) error { return nil })
}

func (a *app) metricsCmd([]string) error {
	return a.ask(http.MethodGet, "/metrics", askLimit, func(r io.Reader) error {
		_, err := io.Copy(a.out, r)
		return err
	})
}

// monitorCmd prints events until the agent ends.
func (a *app) monitorCmd([]string) error {
	return a.ask(http.MethodGet, "/v1/events", 0, func(r io.Reader) error {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if a.json {
				fmt.Fprintln(a.out, lines.Text())
				continue
			}
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				return err
			}
			fmt.Fprintln(a.out, sentence(&e))
		}
		return lines.Err()
	})
}

func sentence(e *event) string {
	words := []string{e.Time.Format(time.RFC3339Nano), e.Object, e.Action}
	add := func(key, value string) {
		if value != "" {
			words = append(words, strings.TrimSpace(key+" "+value))
		}
	}
	if e.Lost > 0 {
		add("lost", strconv.Itoa(e.Lost))
	}
	add("", e.Neighbor)
	add("", e.Type)
	add("", e.MAC)
	add("", e.IP)
	add("", e.Prefix)
	if e.VNI > 0 {
		add("vni", decimal(e.VNI))
	}
	add("vtep", e.VTEP)
	if e.Seq > 0 {
		add("seq", decimal(e.Seq))
	}
	add("rd", e.RD)
	return strings.Join(words, " ")
}

func (a *app) versionCmd([]string) error {
	b := build.Read(version)
	if a.json {
		return a.print(b)
	}
	fmt.Fprintf(a.out, "gvtep-evpn %s %s\n", b.Version, b.GoVersion)
	return nil
}
