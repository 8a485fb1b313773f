package control

import (
	"errors"
	"net/http"

	"gvtep/cmd/internal/page"
)

// maxLookups is how many readers of the page may look for an address at once. A look costs as much as a scrape.
const maxLookups = 4

// pageRoutes are the page and the one thing that it asks beside /metrics and /readyz: where a MAC address is. Only whole
// addresses are answered for, so that nobody is given a list of stations.
func pageRoutes() ([]route, error) {
	h, err := page.Handler()
	if err != nil {
		return nil, err
	}
	return []route{
		{"GET", page.Path, anybody, func(_ *server, w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r) }},
		{"GET", page.Path + "fdb/{mac}", anybody, func(s *server, w http.ResponseWriter, r *http.Request) {
			if !s.large.pass(r.Context(), 0) {
				refuse(w, http.StatusServiceUnavailable, "too many look for an address just now")
				return
			}
			defer s.large.leave()
			w.Header().Set("X-Content-Type-Options", "nosniff")
			outcome(w, r, s.src, whereIs)
		}},
	}, nil
}

// whereIs returns what all tunnels know of an address.
func whereIs(s Source, r *http.Request) (any, error) {
	found := []FDBEntry{}
	for _, t := range s.Tunnels() {
		if t.LinkType == "none" { // that has no table
			continue
		}
		entries, err := s.FDBGet(t.Ifname, r.PathValue("mac"))
		if usage := (*UsageError)(nil); errors.As(err, &usage) {
			return nil, err
		}
		if err == nil { // others have no such entry, or the tunnel has just gone
			found = append(found, entries...)
		}
	}
	return found, nil
}
