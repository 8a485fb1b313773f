// Package page is the page for a browser that the listener of metrics serves: one document, one style sheet and one
// script, all in the program. The script reads /metrics and /readyz of the same listener, so that the page tells nothing
// that a scrape does not, at the cost of a scrape. What it finds there it only ever shows as text.
package page

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"strings"

	"gvtep/vtep/count"
)

//go:embed page.html page.css page.js
var files embed.FS

// policy allows what these files need and nothing else: no code and no style in the document, no other host, no frame around it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// Handler answers for Path and what is below it.
func Handler() (http.Handler, error) {
	t, err := template.ParseFS(files, "page.html")
	if err != nil {
		return nil, err
	}
	var reasons []count.Explanation
	for _, r := range count.Reasons() {
		e := r.Explain()
		for _, text := range []*string{&e.What, &e.Cause, &e.Remedy} {
			*text = strings.ReplaceAll(*text, "`", "") // the texts mark code as documents do
		}
		reasons = append(reasons, e)
	}
	var document bytes.Buffer
	if err := t.Execute(&document, reasons); err != nil {
		return nil, err
	}
	style, err := files.ReadFile("page.css")
	if err != nil {
		return nil, err
	}
	script, err := files.ReadFile("page.js")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for path, of := range map[string]struct {
		kind string
		data []byte
	}{
		"GET " + Path + "{$}":      {"text/html; charset=utf-8", document.Bytes()},
		"GET " + Path + "page.css": {"text/css; charset=utf-8", style},
		"GET " + Path + "page.js":  {"text/javascript; charset=utf-8", script},
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("Content-Type", of.kind)
			h.Set("Content-Security-Policy", policy)
			h.Set("X-Content-Type-Options", "nosniff")
			h.Set("Referrer-Policy", "no-referrer")
			h.Set("Cross-Origin-Resource-Policy", "same-origin")
			h.Set("Cache-Control", "no-cache") // after an upgrade all three are new
			w.Write(of.data)
		})
	}
	return mux, nil
}

// Path is where the page is.
const Path = "/page/"
