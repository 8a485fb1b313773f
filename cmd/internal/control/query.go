package control

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// parameter is one key of a query: how its value is written, "" if there is
// none, and how it is read.
type parameter struct {
	key   string
	write func() string
	read  func(string) error
}

// query is a filter as the parameters of a URL.
func (f *FDBFilter) query() []parameter {
	return []parameter{
		{"dev", func() string { return f.Dev }, func(s string) error {
			f.Dev = s
			return nil
		}},
		vniIn("vni", &f.VNI), vlanIn("vlan", &f.VLAN), addrIn("dst", &f.Dst),
	}
}

// query is a filter as the parameters of a URL.
func (f *FDBFlush) query() []parameter {
	all := []parameter{
		addrIn("dst", &f.Dst), vniIn("vni", &f.VNI), vlanIn("vlan", &f.VLAN), vniIn("src_vni", &f.SrcVNI),
		numberIn("port", &f.Port, 1, 65535, "a UDP port is 1 to 65535"), ownerIn(&f.Owner),
	}
	for _, word := range FlushWords {
		all = append(all, parameter{word, func() string {
			if is, ok := f.Is[word]; ok {
				return strconv.FormatBool(is)
			}
			return ""
		}, func(s string) error {
			is, err := strconv.ParseBool(s)
			if err != nil {
				return fmt.Errorf("%s %s: want true or false", word, s)
			}
			if f.Is == nil {
				f.Is = map[string]bool{}
			}
			f.Is[word] = is
			return nil
		}})
	}
	return all
}

func vniIn(key string, to **uint32) parameter {
	return parameter{key, func() string {
		if *to == nil {
			return ""
		}
		return strconv.FormatUint(uint64(**to), 10)
	}, func(s string) error {
		n, err := strconv.ParseUint(s, 0, 24)
		if err != nil {
			return fmt.Errorf("%s %s: a VNI is 0 to 16777215", key, s)
		}
		*to = new(uint32(n))
		return nil
	}}
}

func vlanIn(key string, to *uint16) parameter {
	return numberIn(key, to, 1, 4094, "a VLAN ID is 1 to 4094")
}

// numberIn is a number that is 0 if it is not given.
func numberIn(key string, to *uint16, least, most uint64, want string) parameter {
	return parameter{key, func() string {
		if *to == 0 {
			return ""
		}
		return strconv.Itoa(int(*to))
	}, func(s string) error {
		n, err := strconv.ParseUint(s, 0, 16)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%s %s: %s", key, s, want)
		}
		*to = uint16(n)
		return nil
	}}
}

func addrIn(key string, to *netip.Addr) parameter {
	return parameter{key, func() string {
		if !to.IsValid() {
			return ""
		}
		return to.String()
	}, func(s string) (err error) {
		if *to, err = netip.ParseAddr(s); err != nil {
			return fmt.Errorf("%s %s: not an IP address", key, s)
		}
		return nil
	}}
}

// query are the parameters of a batch.
func (o *BatchOptions) query() []parameter {
	return []parameter{
		ownerIn(&o.Owner),
		{"sync", func() string {
			if o.Sync {
				return "true"
			}
			return ""
		}, func(s string) (err error) {
			if o.Sync, err = strconv.ParseBool(s); err != nil {
				err = fmt.Errorf("sync %.80q: want true or false", s)
			}
			return err
		}},
	}
}

func ownerIn(to *string) parameter {
	return parameter{"owner", func() string { return *to }, func(s string) error {
		if s == "" || len(s) > maxOwner || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("owner %.80q: want a name without blanks, of at most %d bytes", s, maxOwner)
		}
		*to = s
		return nil
	}}
}

// maxOwner is the longest name of an owner.
const maxOwner = 64

// writeQuery returns the parameters behind a path, with their question mark.
func writeQuery(parameters []parameter) string {
	q := url.Values{}
	for _, p := range parameters {
		if s := p.write(); s != "" {
			q.Set(p.key, s)
		}
	}
	return "?" + q.Encode()
}

// parseQuery reads parameters.
func parseQuery(q url.Values, parameters []parameter) error {
	for key := range q {
		i := slices.IndexFunc(parameters, func(p parameter) bool { return p.key == key })
		if i < 0 {
			var keys []string
			for _, p := range parameters {
				keys = append(keys, p.key)
			}
			last := len(keys) - 1
			return &UsageError{fmt.Sprintf("unknown filter %q: want %s or %s", key, strings.Join(keys[:last], ", "), keys[last])}
		}
		if err := parameters[i].read(q.Get(key)); err != nil {
			return &UsageError{err.Error()}
		}
	}
	return nil
}
