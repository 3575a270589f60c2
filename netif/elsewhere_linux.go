package netif

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A claim is known by its state file. One whose file is in another directory is
// known by what it leaves on the card: the guard, and while its process lives
// the packet sockets.

// elsewhere says who drives a card that nobody in this state directory has
// claimed, "" if nobody does. left reports that somebody did who is gone.
func elsewhere(index int, dir string) (why string, left bool, err error) {
	guard, err := guardOf(index)
	if err != nil || guard == "" {
		return "", false, err
	}
	table, err := os.ReadFile("/proc/thread-self/net/packet")
	if err != nil || !packetSocketIn(string(table), index) {
		return "", true, nil // without /proc nobody can tell
	}
	return fmt.Sprintf("another appliance drives the card, and its state directory is not %s: stop it first, or name its directory with --state-dir", dir), false, nil
}

// packetSocketIn reports whether a table of packet sockets has one of the card's
// that hears everything, as /proc/net/packet writes it: type and protocol in
// hexadecimal, the card's number in decimal.
func packetSocketIn(table string, index int) bool {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) > 4 && f[2] == "3" && f[3] == "0003" && f[4] == strconv.Itoa(index) {
			return true
		}
	}
	return false
}
