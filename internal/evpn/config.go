package evpn

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Config is the configuration of an agent, checked.
type Config struct {
	Rules
	Hold        time.Duration
	Restart     time.Duration // graceful restart (RFC 4724)
	LongLived   time.Duration // how long it goes on behind that (RFC 9494); 0: not at all
	Neighbors   []Neighbor
	Password    string // TCP MD5 (RFC 2385); "": none
	TTLSecurity bool   // RFC 5082
	MaxRoutes   uint32 // that a neighbour may send; 0: as many as it likes
	Constraint  bool   // neighbours are asked for routes with our targets only (RFC 4684)

	Instance string   // of gvtep
	Tunnels  []string // nil: all
	Targets  Targets
	Prefixes []netip.Prefix // announced for tunnels of mode l3
}

// Neighbor is a route reflector, or any other BGP speaker.
type Neighbor struct {
	Addr netip.Addr
	AS   uint32
	Port uint16
}

// file is the configuration as it is written.
type file struct {
	BGP struct {
		ASN          uint32   `toml:"asn"`
		RouterID     string   `toml:"router-id"`
		Neighbor     []string `toml:"neighbor"`
		NeighborASN  uint32   `toml:"neighbor-asn"`
		Port         uint16   `toml:"port"`
		Hold         string   `toml:"hold"`
		Restart      string   `toml:"restart"`
		LongLived    string   `toml:"long-lived"`
		Stale        string   `toml:"stale"`
		Grace        string   `toml:"grace"`
		PasswordFile string   `toml:"password-file"`
		TTLSecurity  bool     `toml:"ttl-security"`
		MaxRoutes    *uint32  `toml:"max-routes"`
		Constraint   bool     `toml:"rt-constraint"`
	} `toml:"bgp"`
	EVPN struct {
		Instance  string   `toml:"instance"`
		Tunnels   []string `toml:"tunnels"`
		RT        any      `toml:"rt"`
		Announce  []string `toml:"announce"`
		Prefixes  []string `toml:"prefixes"`
		Duplicate string   `toml:"duplicate"`
		MaxOfVTEP *uint32  `toml:"max-vtep-routes"`
	} `toml:"evpn"`
}

// Load reads a configuration. Its error is one line, with the place.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	c, err := Parse(text, filepath.Dir(path))
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Parse reads a configuration whose files are relative to dir.
func Parse(text []byte, dir string) (c Config, err error) {
	var f file
	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return c, tomlError(err)
	}
	for _, part := range []func(*file, *Config) error{bgpOf, timersOf, evpnOf} {
		if err := part(&f, &c); err != nil {
			return c, err
		}
	}
	if f.BGP.PasswordFile != "" {
		name := f.BGP.PasswordFile
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		secret, err := os.ReadFile(name)
		if err != nil {
			return c, fmt.Errorf("bgp.password-file: %w", err)
		}
		if c.Password = strings.TrimSpace(string(secret)); c.Password == "" || len(c.Password) > 80 {
			return c, fmt.Errorf("bgp.password-file: %s: want 1 to 80 characters (TCP MD5, RFC 2385)", name)
		}
	}
	return c, nil
}

// tomlError is the first thing that is wrong, in one line.
func tomlError(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		e := strict.Errors[0]
		row, _ := e.Position()
		return fmt.Errorf("line %d: there is no key %s", row, strings.Join(e.Key(), "."))
	}
	var d *toml.DecodeError
	if errors.As(err, &d) {
		row, column := d.Position()
		return fmt.Errorf("line %d, column %d: %s", row, column, strings.TrimPrefix(d.Error(), "toml: "))
	}
	return err
}

func bgpOf(f *file, c *Config) (err error) {
	b := &f.BGP
	if b.ASN == 0 {
		return errors.New("bgp.asn: missing: want the number of our autonomous system, such as 65000")
	}
	c.AS = b.ASN
	if c.RouterID, err = netip.ParseAddr(b.RouterID); err != nil || !c.RouterID.Is4() || c.RouterID.IsUnspecified() {
		return fmt.Errorf("bgp.router-id %q: want an IPv4 address that no other VTEP has, such as 192.0.2.1", b.RouterID)
	}
	if len(b.Neighbor) == 0 {
		return errors.New("bgp.neighbor: missing: want the addresses of the route reflectors")
	}
	for _, text := range b.Neighbor {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("bgp.neighbor %q: want an IP address", text)
		}
		n := Neighbor{a.Unmap(), cmp.Or(b.NeighborASN, b.ASN), cmp.Or(b.Port, 179)}
		if slices.Contains(c.Neighbors, n) {
			return fmt.Errorf("bgp.neighbor %q: given twice", text)
		}
		c.Neighbors = append(c.Neighbors, n)
	}
	c.TTLSecurity, c.Constraint = b.TTLSecurity, b.Constraint
	c.MaxRoutes = 1_000_000
	if b.MaxRoutes != nil {
		c.MaxRoutes = *b.MaxRoutes
	}
	return nil
}

func timersOf(f *file, c *Config) error {
	for _, x := range []struct {
		key, text, otherwise string
		least, most          time.Duration
		to                   *time.Duration
	}{
		{"hold", f.BGP.Hold, "9s", 3 * time.Second, 65535 * time.Second, &c.Hold},
		{"restart", f.BGP.Restart, "120s", time.Second, 4095 * time.Second, &c.Restart},         // 12 bits
		{"long-lived", f.BGP.LongLived, "0s", 0, 1<<24*time.Second - time.Second, &c.LongLived}, // 24 bits
		{"stale", f.BGP.Stale, "1h", 0, 1 << 24 * time.Second, &c.Stale},
		{"grace", f.BGP.Grace, "10s", 0, time.Hour, &c.Grace},
	} {
		d, err := time.ParseDuration(cmp.Or(x.text, x.otherwise))
		if err != nil || d < x.least || d > x.most || d%time.Second != 0 {
			return fmt.Errorf("bgp.%s %q: want whole seconds from %s to %s, such as %s", x.key, x.text, x.least, x.most, x.otherwise)
		}
		*x.to = d
	}
	return nil
}

func evpnOf(f *file, c *Config) (err error) {
	e := &f.EVPN
	if e.Instance == "" || strings.Contains(e.Instance, "/") {
		return fmt.Errorf("evpn.instance %q: want the name of the gvtep instance, as gvtep ls shows it", e.Instance)
	}
	c.Instance, c.Tunnels = e.Instance, e.Tunnels
	if c.Targets, err = targetsOf(e.RT); err != nil {
		return err
	}
	if c.Rules.Announce, c.BareMAC, err = announceOf(e.Announce); err != nil {
		return err
	}
	for _, text := range e.Prefixes {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			return fmt.Errorf("evpn.prefixes %q: want a network such as 10.1.0.0/16, without bits behind it", text)
		}
		c.Prefixes = append(c.Prefixes, p)
	}
	if c.MaxOfVTEP = 100_000; e.MaxOfVTEP != nil {
		c.MaxOfVTEP = int(*e.MaxOfVTEP)
	}
	c.Moves, c.Window = 5, 180*time.Second // RFC 7432 15.1
	if e.Duplicate == "" {
		return nil
	}
	if e.Duplicate == "off" {
		c.Moves = 0
		return nil
	}
	n, window, ok := strings.Cut(e.Duplicate, " in ")
	moves, err1 := strconv.Atoi(n)
	d, err2 := time.ParseDuration(window)
	if !ok || err1 != nil || err2 != nil || moves < 2 || moves > 1000 || d <= 0 {
		return fmt.Errorf("evpn.duplicate %q: want MOVES in TIME, such as 5 in 180s, or off", e.Duplicate)
	}
	c.Moves, c.Window = moves, d
	return nil
}

func targetsOf(v any) (g Targets, err error) {
	switch v := v.(type) {
	case nil:
		return Targets{Auto: true}, nil
	case string:
		switch v {
		case "auto":
			return Targets{Auto: true}, nil
		case "rfc8365":
			return Targets{Auto: true, Derive: true}, nil
		}
	case []any:
		for _, x := range v {
			t, err := ParseTarget(fmt.Sprint(x))
			if err != nil {
				return g, fmt.Errorf("evpn.rt: %w", err)
			}
			g.List = append(g.List, t)
		}
		if len(g.List) > 0 && len(g.List) <= 16 {
			return g, nil
		}
	}
	return g, fmt.Errorf(`evpn.rt %v: want "auto" (AS:VNI), "rfc8365", or a list of 1 to 16 such as ["65000:100"]`, v)
}

// announceOf reads what is announced besides Multicast.
func announceOf(words []string) (kinds []Kind, bare bool, err error) {
	if words == nil {
		return nil, false, nil
	}
	kinds = []Kind{}
	for _, w := range words {
		switch w {
		case "mac", "ip":
			if !slices.Contains(kinds, MACIP) {
				kinds = append(kinds, MACIP)
			}
		case "prefix":
			kinds = append(kinds, Prefix)
		default:
			return nil, false, fmt.Errorf("evpn.announce %q: want mac, ip and prefix", w)
		}
	}
	if slices.Contains(words, "ip") && !slices.Contains(words, "mac") {
		return nil, false, errors.New(`evpn.announce: "ip" goes with "mac": a route of an IP address has its MAC address, too`)
	}
	return kinds, !slices.Contains(words, "ip"), nil
}
