package netif

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// watchRetry is how long to wait before asking again for link changes, when
// the kernel has refused: it does so for want of memory.
const watchRetry = time.Second

// subscription is the kernel's news of all links of a namespace. It ends when
// it is cancelled, or when more news come than its socket holds.
type subscription struct {
	updates chan netlink.LinkUpdate
	stop    chan struct{}
}

// subscribe begins to listen for changes of any link of the calling thread's
// namespace.
func (e *Endpoint) subscribe() (*subscription, error) {
	s := &subscription{updates: make(chan netlink.LinkUpdate, 16), stop: make(chan struct{})}
	err := netlink.LinkSubscribeWithOptions(s.updates, s.stop, netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) {
			select {
			case <-s.stop: // cancel closed the socket
			default:
				e.log.Warn("link changes were missed, looking again", "nic", e.name, "err", err)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch the link: %w", err)
	}
	return s, nil
}

// cancel ends the subscription and waits.
func (s *subscription) cancel() {
	close(s.stop)
	for range s.updates { //nolint:revive // drained until the subscription has ended
	}
}

// watch follows the card until Close. It is the only goroutine that replaces sockets.
func (e *Endpoint) watch(home *os.File, s *subscription) {
	defer e.wg.Done()
	if err := settleIn(home); err != nil {
		e.log.Warn("the card is lost if it is removed and made anew", "nic", e.name, "err", err)
	}
	for s != nil {
		lost := e.follow(s)
		s.cancel()
		if !lost {
			return
		}
		s = e.lookAgain()
	}
}

// follow handles the news. It reports whether they ended before Close.
func (e *Endpoint) follow(s *subscription) (lost bool) {
	for {
		select {
		case <-e.done:
			return false
		case u, more := <-s.updates:
			if !more {
				return true
			}
			e.hear(u)
		}
	}
}

// lookAgain makes a new subscription and catches up. It returns nil after Close.
func (e *Endpoint) lookAgain() *subscription {
	for {
		s, err := e.subscribe()
		if err == nil {
			e.catchUp()
			return s
		}
		e.log.Warn("cannot watch the card, trying again", "nic", e.name, "err", err)
		select {
		case <-e.done:
			return nil
		case <-time.After(watchRetry):
		}
	}
}

// catchUp takes over the state of the link as it is now.
func (e *Endpoint) catchUp() {
	link, err := netlink.LinkByName(e.name)
	if isMissing(err) {
		link, err = netlink.LinkByIndex(e.currentIndex()) // renamed
	}
	switch {
	case isMissing(err):
		e.gone()
	case err != nil:
		e.log.Warn("cannot ask for the state of the card", "nic", e.name, "err", err)
	default:
		e.see(link.Attrs())
	}
}

func isMissing(err error) bool {
	_, missing := errors.AsType[netlink.LinkNotFoundError](err)
	return missing
}

// hear handles one piece of news.
func (e *Endpoint) hear(u netlink.LinkUpdate) {
	a := u.Link.Attrs()
	switch {
	case u.IfInfomsg.Family == unix.AF_BRIDGE: // a bridge speaks of its port
	case u.Header.Type != unix.RTM_DELLINK:
		e.see(a)
	case a.Index == e.currentIndex():
		e.gone()
	}
}

// see takes over the state of our card, or the card that has taken its name.
func (e *Endpoint) see(a *netlink.LinkAttrs) {
	switch {
	case a.Index == e.currentIndex():
		e.learn(a)
	case a.Name == e.name:
		e.replace(a)
	}
}

// gone notes that the card was removed. It may come back with the same number.
func (e *Endpoint) gone() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.index == 0 {
		return
	}
	e.retireLocked()
	e.up.Store(false)
	e.count.linkChanges.Add(1)
	e.onLink(false)
	e.log.Warn("network card is gone, waiting for it to come back", "nic", e.name)
}

// retireLocked closes the sockets of a card that is not ours any more.
func (e *Endpoint) retireLocked() {
	e.index = 0
	if err := e.closeSocketsLocked(); err != nil {
		e.log.Warn("old sockets did not close cleanly", "nic", e.name, "err", err)
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
	e.retireLocked()
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
		e.onLink(up)
	}
}
