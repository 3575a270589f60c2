package lab

import (
	"fmt"
	"os"
	"strings"
)

// Sysctl sets a kernel parameter of the host, as in
// Sysctl("net.ipv4.tcp_sack", "0"). For an interface with a dot in its name,
// write the key with slashes.
func (h *Host) Sysctl(key, value string) error {
	return h.Do(func() error {
		if err := setSysctl(key, value); err != nil {
			return fmt.Errorf("set %s on %s: %w", key, h.name, err)
		}
		return nil
	})
}

// setSysctl writes a parameter of the calling thread's namespace:
// /proc/sys/net shows the one of who opens it.
func setSysctl(key, value string) error {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	f, err := os.OpenFile("/proc/sys/"+key, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if err2 := f.Close(); err == nil {
		err = err2
	}
	return err
}

// quietDefaults makes interfaces still to come say nothing on their own: no
// duplicate address detection, no router solicitations. IPv6 is on, also
// where the machine has it off. A kernel without IPv6 has no such keys.
func quietDefaults() {
	for _, scope := range []string{"all", "default"} {
		dir := "net/ipv6/conf/" + scope
		_ = setSysctl(dir+"/disable_ipv6", "0")
		_ = setSysctl(dir+"/accept_dad", "0")
		_ = setSysctl(dir+"/router_solicitations", "0")
	}
}
