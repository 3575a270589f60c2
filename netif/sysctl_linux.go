package netif

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Settings the restore treats apart from the others.
const (
	sysctlForward4    = "ipv4/forwarding"
	sysctlDisableIPv6 = "ipv6/disable_ipv6"
	sysctlAcceptDAD   = "ipv6/accept_dad"
)

// sysctlPath is where the kernel keeps a setting of one card. /proc/sys/net
// shows the network namespace of the calling thread.
func sysctlPath(card, key string) string {
	family, name, _ := strings.Cut(key, "/")
	return filepath.Join("/proc/sys/net", family, "conf", card, name)
}

// sysctlsOf returns every writable setting the kernel keeps for a card. A
// kernel without IPv6 has none of that family.
func sysctlsOf(card string) (map[string]string, error) {
	found := make(map[string]string)
	for _, family := range []string{"ipv4", "ipv6"} {
		files, err := os.ReadDir(filepath.Dir(sysctlPath(card, family+"/x")))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read kernel settings: %w", err)
		}
		for _, f := range files {
			info, err := f.Info()
			// stable_secret is a key, is never changed here, and belongs into no file.
			if err != nil || info.Mode().Perm()&0o222 == 0 || f.Name() == "stable_secret" {
				continue
			}
			key := family + "/" + f.Name()
			if v, err := readSysctl(card, key); err == nil { // else it has no value to lose
				found[key] = v
			}
		}
	}
	return found, nil
}

func readSysctl(card, key string) (string, error) {
	b, err := os.ReadFile(sysctlPath(card, key))
	return strings.TrimSpace(string(b)), err
}

// writeSysctl changes a setting unless it has that value already: some have
// effects whenever they are written.
func writeSysctl(card, key, value string) error {
	now, err := readSysctl(card, key)
	if err == nil && now == value {
		return nil
	}
	if err == nil {
		err = os.WriteFile(sysctlPath(card, key), []byte(value), 0o644)
	}
	if err != nil {
		return fmt.Errorf("set %s of %s to %s: %w", key, card, value, err)
	}
	return nil
}

// restoreSysctls puts back all settings but those left out.
func restoreSysctls(card string, saved map[string]string, except ...string) error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(saved)) {
		if !slices.Contains(except, key) {
			errs = append(errs, writeSysctl(card, key, saved[key]))
		}
	}
	return errors.Join(errs...)
}
