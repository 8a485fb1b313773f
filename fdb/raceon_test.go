//go:build race

package fdb

// raceEnabled makes tests smaller that the race detector makes slow.
const raceEnabled = true
