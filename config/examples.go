package config

import "embed"

// Examples are the files that gvtep config example shows.
//
//go:embed examples/*.toml
var Examples embed.FS
