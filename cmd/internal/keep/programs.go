package keep

import (
	"strings"

	"golang.org/x/sys/unix"
)

// programPrefix begins the names of what a fast path has kept: what comes behind it is the fast
// path's.
const programPrefix = "fast."

// Programs is the store of a fast path: the links by which its programs are attached and maps
// of these. With them the kernel goes on carrying while there is no process.
type Programs struct{ *store }

// Programs are those of this process.
func (k *Kernel) Programs() Programs { return Programs{k.store} }

// Kept returns what an earlier process has left, by name, once. The descriptors are the caller's.
func (p Programs) Kept() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.programs
	p.programs = nil
	return kept
}

// Keep has the manager hold a descriptor, unless it holds one of that name.
func (p Programs) Keep(name string, fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep(programPrefix+name, fd)
}

// Drop takes back what the manager holds under these names.
func (p Programs) Drop(names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var held []string
	for _, name := range names {
		if p.held[programPrefix+name] {
			held = append(held, programPrefix+name)
		}
	}
	if len(held) > 0 {
		p.remove(held...)
	}
}

// program takes a descriptor that the manager kept if it is a fast path's. s.mu is held, or
// nobody else knows s yet.
func (s *store) program(name string, fd int) bool {
	short, ok := strings.CutPrefix(name, programPrefix)
	if !ok || short == "" {
		return false
	}
	if _, twice := s.programs[short]; twice {
		unix.Close(fd)
		return true
	}
	s.programs[short], s.held[name] = fd, true
	return true
}
