package main

import (
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"gvtep/config"
	"gvtep/vtep/count"
)

// docsPages are the pages of docs that are made from tables.
var docsPages = []string{"reference.md", "drops.md"}

// writeDocs writes them into dir.
func writeDocs(dir string) error {
	for _, name := range docsPages {
		text, err := docsPage(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// docsPage is one of them as it should be.
func docsPage(name string) (string, error) {
	data := struct {
		Sections []config.Section
		Reasons  []count.Explanation
	}{Sections: config.Sections()}
	for _, r := range count.Reasons() {
		data.Reasons = append(data.Reasons, r.Explain())
	}
	file := name + ".tmpl"
	t, err := template.New(file).Funcs(template.FuncMap{
		"values": values, "initial": initial, "live": live, "fileKeys": fileKeys, "cell": cell, "prosecell": proseCell, "shorthands": shorthands,
	}).ParseFS(templates, file)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return "", err
	}
	return b.String(), nil
}

// cell is code in a cell of a table, in which | would end the cell.
func cell(s string) string {
	if s == "none" {
		return s
	}
	return "`" + strings.ReplaceAll(s, "|", `\|`) + "`"
}

// proseCell says what a key is for.
func proseCell(k config.Keyword) string {
	return strings.TrimSpace(sentence(k.Usage) + " " + k.More)
}

// shorthand is a word of the command line that stands for others.
type shorthand struct{ Word, Stands, Of string }

// shorthands are those of all sections.
func shorthands(sections []config.Section) (all []shorthand) {
	for _, s := range sections {
		for _, k := range s.Keys {
			for _, a := range k.Aliases {
				all = append(all, shorthand{a, k.Name, s.Name})
			}
			if stands := k.Stands(); stands != "" {
				all = append(all, shorthand{k.Name, stands, s.Name})
			}
		}
	}
	return all
}
