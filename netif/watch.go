package netif

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// subscribe begins to listen for changes of any link of this namespace.
func (e *Endpoint) subscribe() (chan netlink.LinkUpdate, error) {
	updates := make(chan netlink.LinkUpdate, 16)
	err := netlink.LinkSubscribeWithOptions(updates, e.done, netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) {
			select {
			case <-e.done: // Close ended the subscription
			default:
				e.log.Warn("link changes may be missed", "nic", e.name, "err", err)
			}
		},
	})
	return updates, err
}

// watch follows the card until Close. It is the only goroutine that replaces sockets.
func (e *Endpoint) watch(updates <-chan netlink.LinkUpdate) {
	defer e.wg.Done()
	for u := range updates {
		a := u.Link.Attrs()
		switch {
		case a.Name != e.name:
		case u.Header.Type == unix.RTM_DELLINK:
			e.count.linkChanges.Add(1)
			e.up.Store(false)
			e.log.Warn("network card is gone, waiting for it to come back", "nic", e.name)
		case a.Index != e.currentIndex():
			e.replace(a)
		default:
			e.learn(a)
		}
	}
}

func (e *Endpoint) currentIndex() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.index
}

// replace moves to a new card that has taken the old one's name.
func (e *Endpoint) replace(a *netlink.LinkAttrs) {
	e.count.linkChanges.Add(1)
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	if err := e.closeSocketsLocked(); err != nil {
		e.log.Warn("old sockets did not close cleanly", "nic", e.name, "err", err)
	}
	e.mu.Unlock()
	if err := e.start(a); err != nil {
		e.log.Error("network card came back but cannot be used", "nic", e.name, "err", err)
		return
	}
	e.log.Info("network card came back", "nic", e.name, "index", a.Index)
}

// learn takes over MTU, address and state of the link.
func (e *Endpoint) learn(a *netlink.LinkAttrs) {
	if old := e.mtu.Swap(uint32(a.MTU)); old != uint32(a.MTU) && old != 0 {
		e.count.linkChanges.Add(1)
		e.log.Info("MTU changed", "nic", e.name, "mtu", a.MTU, "was", old)
	}
	if len(a.HardwareAddr) == 6 {
		mac := [6]byte(a.HardwareAddr)
		e.mac.Store(&mac)
	}
	// OperUnknown is what drivers without carrier detection report.
	up := a.RawFlags&unix.IFF_UP != 0 && (a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown)
	if was := e.up.Swap(up); was != up {
		e.count.linkChanges.Add(1)
		e.log.Info("link changed", "nic", e.name, "up", up)
	}
}
