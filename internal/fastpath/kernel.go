package fastpath

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// load has the programs in the kernel, if it takes them. It says so if it does. A refusal
// is final: the same kernel and rights would refuse again.
func (p *Path) load() bool {
	p.mu.Lock()
	loaded, refused := p.kernel != nil, p.refused != ""
	p.mu.Unlock()
	if refused {
		p.forget()
	}
	if loaded || refused {
		return loaded
	}
	kernel, err := open()
	var told *ebpf.Map
	if err == nil && p.store != (nothing{}) {
		if told, err = newTold(kernel.Counts); err != nil {
			kernel.Close()
		}
	}
	p.mu.Lock()
	if err != nil {
		p.refused = err.Error()
		p.forget()
		p.mu.Unlock()
		return false
	}
	p.kernel, p.told = kernel, told
	p.must(kernel.Settings.Put(uint32(0), p.setting))
	waiting := p.waiting
	p.mu.Unlock()
	if !waiting {
		p.keepMaps()
	}
	return true
}

// forget drops the entries that were told: no map will have them.
func (p *Path) forget() {
	p.queue.Lock()
	defer p.queue.Unlock()
	clear(p.pending)
}

// open loads programs and maps.
func open() (*bpfObjects, error) {
	const vmlinux = "/sys/kernel/btf/vmlinux"
	if _, err := os.Stat(vmlinux); err != nil {
		return nil, fmt.Errorf("this kernel has no %s (CONFIG_DEBUG_INFO_BTF)", vmlinux)
	}
	kernel := new(bpfObjects)
	err := loadBpfObjects(kernel, nil)
	var verifier *ebpf.VerifierError
	switch {
	case err == nil:
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return nil, missingRights(err)
	case errors.As(err, &verifier):
		return nil, fmt.Errorf("this kernel does not take the program: %v (Linux 6.6 and newer do)", verifier)
	default:
		return nil, fmt.Errorf("the kernel refuses: %w (Linux 6.6 and newer can)", err)
	}
	return kernel, nil
}

// missingRights explains a refusal.
func missingRights(err error) error {
	if text, _ := os.ReadFile("/sys/kernel/security/lockdown"); len(text) > 0 && !containsNone(text) {
		return fmt.Errorf("the kernel is locked down: %w", unix.EPERM)
	}
	for _, c := range []struct {
		bit  uint
		name string
	}{{unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_PERFMON, "CAP_PERFMON"}} {
		if !capable(c.bit) {
			return fmt.Errorf("it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: %s is missing", c.name)
		}
	}
	return fmt.Errorf("the kernel refuses although the capabilities are there (seccomp, LSM?): %w", err)
}

// containsNone reads a line like "[none] integrity confidentiality".
func containsNone(lockdown []byte) bool { return string(lockdown[:min(6, len(lockdown))]) == "[none]" }

// capable reports whether the thread has a capability; CAP_SYS_ADMIN stands for the others.
func capable(bit uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	has := func(bit uint) bool { return data[bit/32].Effective&(1<<(bit%32)) != 0 }
	return has(bit) || bit != unix.CAP_NET_ADMIN && has(unix.CAP_SYS_ADMIN)
}

// hook is one of the two places where programs are attached.
type hook struct {
	name    string          // in the names of what is kept
	options link.TCXOptions // but for the device
}

const (
	tapHook   = "tap"
	underHook = "under"
)

// leaving is where frames leave by a tunnel's device, before the programs of others: they see
// what is left.
func (k *bpfObjects) leaving() *hook {
	return &hook{tapHook, link.TCXOptions{Program: k.TapEgress, Attach: ebpf.AttachTCXEgress, Anchor: link.Head()}}
}

// coming is where packets come in by an underlay device, behind the programs of others: they
// see all.
func (k *bpfObjects) coming() *hook {
	return &hook{underHook, link.TCXOptions{Program: k.UnderlayIngress, Attach: ebpf.AttachTCXIngress, Anchor: link.Tail()}}
}

func (h *hook) attach(ifindex int) (link.Link, error) {
	o := h.options
	o.Interface = ifindex
	l, err := link.AttachTCX(o)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return nil, errors.New("it needs Linux 6.6 (tcx)")
	}
	return l, err
}
