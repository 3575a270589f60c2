package boot

import (
	"encoding/binary"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/wholefile"
)

// latest is the latest of the times that are known: the clock's, which the kernel took
// from the hardware's, the one that was saved, and the time the firmware was built. Time
// never goes back to what was saved: the clock may be right.
func latest(clock, saved, built time.Time) time.Time {
	for _, t := range []time.Time{saved, built} {
		if t.After(clock) {
			clock = t
		}
	}
	return clock
}

func readTime(file string) time.Time {
	line, err := readLine(file)
	if err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, line)
	if err != nil {
		return time.Time{}
	}
	return t
}

// kernelDate is in the version of Debian's kernels: "#1 SMP Debian 6.1.192-2 (2026-11-10)".
var kernelDate = regexp.MustCompile(`\((\d{4}-\d{2}-\d{2})\)`)

// kernelBuilt is when the kernel was made, which is before now.
func kernelBuilt(version string) time.Time {
	m := kernelDate.FindStringSubmatch(version)
	if m == nil {
		return time.Time{}
	}
	t, err := time.Parse(time.DateOnly, m[1])
	if err != nil {
		return time.Time{}
	}
	return t
}

func kernelVersion() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Version[:])
}

// setClock puts the clock forward if it is known to be late.
func (b *Box) setClock() {
	now := time.Now()
	to := latest(now, readTime(b.path("data/init/clock")), kernelBuilt(kernelVersion()))
	if !to.After(now) {
		return
	}
	tv := unix.NsecToTimeval(to.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		b.warn("clock", fmt.Errorf("set the clock: %w", err))
		return
	}
	b.log.Info("the hardware's clock is late, or there is none: time is that of the last run, or of the firmware", "was", now.UTC().Format(time.RFC3339))
}

// saveClock remembers the time, and at the end gives it to the hardware's clock.
func (b *Box) saveClock(rtc bool) {
	now := time.Now().UTC()
	b.warn("clock", wholefile.Write(b.path("data/init/clock"), []byte(now.Format(time.RFC3339)+"\n"), 0o600))
	if !rtc {
		return
	}
	f, err := os.Open(b.path("dev/rtc0"))
	if err != nil {
		return // there is none
	}
	defer f.Close()
	b.warn("clock", wrap("set the hardware's clock", unix.IoctlSetRTCTime(int(f.Fd()), &unix.RTCTime{
		Sec: int32(now.Second()), Min: int32(now.Minute()), Hour: int32(now.Hour()),
		Mday: int32(now.Day()), Mon: int32(now.Month()) - 1, Year: int32(now.Year()) - 1900,
	})))
}

// seedSize is what the kernel's pool takes, in bytes.
const seedSize = 256

// seed gives the kernel's random numbers what the last run has left, as it comes: it counts for nothing,
// since a copied disk has the same, but makes boots differ. It's replaced at once, so that it is used once.
func (b *Box) seed() {
	file := b.path("data/init/seed")
	if old, err := os.ReadFile(file); err == nil {
		b.warn("seed", wrap("use the random seed", os.WriteFile(b.path("dev/urandom"), old, 0)))
	}
	fresh := make([]byte, seedSize)
	if _, err := unix.Getrandom(fresh, unix.GRND_NONBLOCK); err != nil {
		return // none to be had yet: the old one stays
	}
	b.warn("seed", wrap("keep a random seed", wholefile.Write(file, fresh, 0o600)))
}

// setHostname names the box after its first card, unless DATA says how.
func (b *Box) setHostname() {
	name, err := readLine(b.path("data/config/hostname"))
	if err != nil || !validHostname(name) {
		name = "lastack"
		if mac, err := readLine(b.path("sys/class/net/eth0/address")); err == nil && len(mac) == 17 {
			name += "-" + strings.ReplaceAll(mac[9:], ":", "")
		}
	}
	b.hostname = name
	b.warn("hostname", wrap("set the host name", unix.Sethostname([]byte(name))))
}

// validHostname is RFC 1123, 2.1.
func validHostname(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// utf16 is a string as the firmware has them, with its end.
func utf16(s string) []byte {
	var out []byte
	for _, c := range s {
		out = binary.LittleEndian.AppendUint16(out, uint16(c))
	}
	return append(out, 0, 0)
}
