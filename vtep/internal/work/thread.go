package work

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// schedule asks the kernel for short slices and for sleeps that end in time; see
// slice. Kernels before 6.12 grant none. Who runs gvtep at a real-time priority has
// chosen otherwise, and a nice value stays.
func (w *worker) schedule() {
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // ns; the default is 50 us
	attr, err := unix.SchedGetAttr(0, 0)
	if err == nil && attr.Policy == unix.SCHED_NORMAL {
		attr.Runtime = uint64(slice)
		err = unix.SchedSetAttr(0, attr, 0)
	}
	if err != nil {
		w.pool.Owner.Unsliced(w.id, err)
	}
}

// giveWay lets others run on the worker's processor between two turns of a flood.
func giveWay() {
	ts := unix.NsecToTimespec(int64(nap))
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}

func yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// load tells how a thread spends its time. All are ns.
type load struct {
	since  int64 // endpoint clock of the last look
	ran    int64 // CPU time of the thread then
	waited int64 // how long it had waited for a processor
}

// look says of the time since the last look, in percent, for how much of it the thread ran,
// and for how much it waited for a processor.
// Sleep is neither, however late it ends. stat is the thread's schedstat, -1 if there is
// none (CONFIG_SCHED_INFO).
func (l *load) look(now int64, stat int) (busy, waiting int64) {
	last := *l
	var ts unix.Timespec
	unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(unsafe.Pointer(&ts)), 0)
	*l = load{since: now, ran: ts.Nano(), waited: runDelay(stat)}
	past := max(now-last.since, 1)
	return (l.ran - last.ran) * 100 / past, (l.waited - last.waited) * 100 / past
}

// runDelay reads how long a thread has been ready to run and was not running: the second
// number of its schedstat (Documentation/scheduler/sched-stats.rst).
func runDelay(stat int) (ns int64) {
	var text [64]byte
	n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(stat), uintptr(unsafe.Pointer(&text[0])), uintptr(len(text)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	field := 0
	for _, c := range text[:n] {
		switch {
		case c == ' ':
			field++
		case field == 1:
			ns = ns*10 + int64(c-'0')
		}
	}
	return ns
}
