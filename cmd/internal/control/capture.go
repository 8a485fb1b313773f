package control

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// CaptureRequest says which packets are wanted. The zero value of a field is the daemon's choice.
type CaptureRequest struct {
	Dev     string   // of this tunnel only
	Points  []string // where they are seen, such as "drops"; nil: everywhere
	Filter  []string // words
	Snaplen int      // bytes of each
	Rate    int      // packets a second
	Buffer  int      // bytes for each worker
	Count   int      // packets, then it ends
}

// numbers are the fields that are one, by their key.
func (r *CaptureRequest) numbers() map[string]*int {
	return map[string]*int{"snaplen": &r.Snaplen, "rate": &r.Rate, "buffer": &r.Buffer, "count": &r.Count}
}

// values writes the request as the parameters of a URL.
func (r *CaptureRequest) values() url.Values {
	q := url.Values{}
	for key, n := range r.numbers() {
		if *n != 0 {
			q.Set(key, strconv.Itoa(*n))
		}
	}
	for key, s := range map[string]string{"dev": r.Dev, "points": strings.Join(r.Points, ","), "filter": strings.Join(r.Filter, " ")} {
		if s != "" {
			q.Set(key, s)
		}
	}
	return q
}

// parse reads the parameters of a URL.
func (r *CaptureRequest) parse(q url.Values) error {
	for key := range q {
		value := q.Get(key)
		if n := r.numbers()[key]; n != nil {
			var err error
			if *n, err = strconv.Atoi(value); err != nil || *n < 0 {
				return fmt.Errorf("%s %q: want a number", key, value)
			}
			continue
		}
		switch key {
		case "dev":
			r.Dev = value
		case "points":
			r.Points = strings.FieldsFunc(value, func(c rune) bool { return c == ',' })
		case "filter":
			r.Filter = strings.Fields(value)
		default:
			return fmt.Errorf("unknown parameter %q: want dev, points, filter, snaplen, rate, buffer or count", key)
		}
	}
	return nil
}
