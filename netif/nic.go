package netif

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
)

// ClaimOptions configure a claim. The zero value works.
type ClaimOptions struct {
	StateDir string       // where the card's kernel configuration is remembered; "" is DefaultStateDir
	MTU      int          // bytes; 0 leaves the card's MTU
	Log      *slog.Logger // nil discards
}

// NIC is a network card taken from the kernel.
//
//	free --Claim--> claimed --Release--> free
//	                   |
//	                   | the process dies
//	                   v
//	                crashed --Release(name) or Claim--> free or claimed
//
// While it is claimed the kernel has no address, route or protocol on it and
// drops what arrives; packet sockets still get every frame. What the kernel
// had is in a state file from before the first change until Release has undone
// the last. Methods may be called by any goroutine.
type NIC struct {
	name   string
	index  int
	mtu    int
	mac    net.HardwareAddr
	driver string
	guard  string
	keeper *keeper

	mu       sync.Mutex // guards what follows
	state    *state
	released bool
}

// Claim takes the card from the kernel: remembers its configuration in a state
// file, takes the kernel off it and sets the link up. When it fails, everything
// changed so far is put back. A card that a crashed process had claimed keeps
// the configuration which that process found as the one to restore.
func Claim(name string, o ClaimOptions) (*NIC, error) {
	n, err := newKeeper(o.StateDir, o.Log).claim(name, o.MTU)
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", name, err)
	}
	return n, nil
}

// Look tells whether a card that could be claimed is there, in the words of Claim.
func Look(name string) error {
	if _, err := lookUp(name); err != nil {
		return fmt.Errorf("claim %s: %w", name, err)
	}
	return nil
}

// Release gives a card back whose process has crashed, from its state file. It
// goes on past errors and joins them; the state file then stays, for another try.
func Release(name, stateDir string) error {
	if err := newKeeper(stateDir, nil).releaseCrashed(name); err != nil {
		return fmt.Errorf("release %s: %w", name, err)
	}
	return nil
}

// Adopt takes a card over from the running process that has claimed it: on the
// card nothing changes, Release is this process's from now on.
func Adopt(name string, o ClaimOptions, pid int) (*NIC, error) {
	n, err := newKeeper(o.StateDir, o.Log).adopt(name, pid)
	if err != nil {
		return nil, fmt.Errorf("adopt %s: %w", name, err)
	}
	return n, nil
}

// Leave makes Release do nothing: another process adopts the card.
func (n *NIC) Leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.released = true
}

// Name is the kernel's name of the card.
func (n *NIC) Name() string { return n.name }

// Index is the kernel's number of the card.
func (n *NIC) Index() int { return n.index }

// MTU is the largest packet the card took when it was claimed, in bytes.
func (n *NIC) MTU() int { return n.mtu }

// MAC is the card's Ethernet address.
func (n *NIC) MAC() net.HardwareAddr { return slices.Clone(n.mac) }

// Driver is the name of the card's driver, "" if it does not say.
func (n *NIC) Driver() string { return n.driver }

// Guard is the kind of filter that keeps frames from the kernel's stack:
// "bpf", "matchall", or "" if this kernel has neither.
func (n *NIC) Guard() string { return n.guard }

// Release gives the card back as it was found. It goes on past errors and
// joins them; calling it again then tries again. After a success it does
// nothing more.
func (n *NIC) Release() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.released {
		return nil
	}
	if err := n.keeper.release(n.state, (*state).gone); err != nil {
		return fmt.Errorf("release %s: %w", n.name, err)
	}
	n.released = true
	return nil
}
