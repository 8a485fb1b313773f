package keep

import (
	"go.uber.org/zap"

	"gvtep/cmd/internal/service"
	"gvtep/internal/netio"
	"gvtep/tap"
	"gvtep/udp"
)

// Packages tap and udp do not know the endpoint, and it does not know them. Here they are put
// behind its two interfaces, with the store in between (keep.go).

// Kernel is the devices and sockets of a process.
type Kernel struct {
	*store
	under *udp.Underlay
}

// Options are those of the underlay.
type Options struct {
	Workers, Rcvbuf int
	Offload         bool // some tunnel uses offloads
}

// Open prepares both, with what the service manager kept.
func Open(m *service.Manager, log *zap.Logger, o Options) (*Kernel, error) {
	under, err := udp.New(udp.Config{Workers: o.Workers, Rcvbuf: o.Rcvbuf, GSO: o.Offload, GRO: o.Offload})
	if err != nil {
		return nil, err
	}
	return &Kernel{newStore(m, log), under}, nil
}

// Close closes what belongs to no device and no listener.
func (k *Kernel) Close() { k.under.Close() }

// Devices makes devices. before is what an earlier process asked of those that
// the manager kept, by name.
func (k *Kernel) Devices(before map[string]netio.DeviceOptions) netio.Devices {
	k.before = before
	return tapDevices{k.store, tap.NewWatcher()}
}

// Underlay makes sockets, of those first that the manager kept.
func (k *Kernel) Underlay() netio.Underlay { return newUnderlay(k.under, k.store) }

// Settle is called when all that is configured is open for the first time. It
// drops what the manager kept and nothing has asked for.
func (k *Kernel) Settle() { k.settle(k.under) }

type tapDevice struct{ *tap.Device }

func (d tapDevice) Queue(i int) netio.Queue { return d.Device.Queue(i) }

func (d tapDevice) Writer(worker int) netio.Writer { return d.Device.Writer(worker) }

func (u underlay) Sender(worker int) netio.Sender { return u.Underlay.Sender(worker) }
