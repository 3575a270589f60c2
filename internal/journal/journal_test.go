package journal_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/journal"
)

// began is a moment of a boot.
func began() journal.Moment {
	return journal.Moment{Wall: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), Boot: [16]byte{1, 2, 3}, Up: time.Hour}
}

func later(m journal.Moment, d time.Duration) journal.Moment {
	m.Wall, m.Up = m.Wall.Add(d), m.Up+d
	return m
}

func conns(n int) []journal.Conn {
	all := make([]journal.Conn, n)
	for i := range all {
		all[i] = journal.Conn{
			Local:  netip.MustParseAddrPort("192.0.2.10:443"),
			Remote: netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), uint16(1024+i)),
			Seq:    0xfffffffe + uint32(i), Ack: 77 * uint32(i), Window: 502, MAC: [6]byte{2, 0, 0, 0, 0, 9},
		}
		if i%2 == 1 {
			all[i].Local, all[i].Remote = netip.MustParseAddrPort("[2001:db8::10]:443"), netip.AddrPortFrom(netip.MustParseAddr("2001:db8::7"), uint16(i))
			all[i].Timestamps, all[i].TSVal, all[i].TSRecent = true, 4_000_000_000, 123
			all[i].Tagged, all[i].VLAN = true, 42
		}
	}
	return all
}

func write(t *testing.T, dir string, all []journal.Conn, at journal.Moment) {
	t.Helper()
	w, err := journal.Create(journal.Alive, dir, "wan0")
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		w.Add(&all[i])
	}
	if err := w.Commit(at); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsWrittenIsReadAgain(t *testing.T) {
	dir, want := t.TempDir(), conns(5000)
	write(t, dir, want, began())
	j, err := journal.Load(journal.Alive, dir, "wan0", later(began(), 90*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if j.Len() != len(want) || j.Age != 90*time.Second {
		t.Fatalf("got %d connections of %v ago, want %d of 1m30s", j.Len(), j.Age, len(want))
	}
	i := 0
	for c := range j.All() {
		if *c != want[i] {
			t.Fatalf("connection %d is\n%+v, want\n%+v", i, *c, want[i])
		}
		i++
	}
	if fi, err := os.Stat(journal.Alive.Path(dir, "wan0")); err != nil || fi.Size() != 72+5000*journal.RecordSize || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v; want 72 bytes and 64 for each, for its owner alone", fi, err)
	}
}

// Whatever is wrong with a file, it is refused in one sentence that names it.
func TestAJournalThatCannotBeTrustedIsRefused(t *testing.T) {
	hour := later(began(), time.Hour)
	next := hour // after another boot
	next.Boot, next.Up = [16]byte{9}, time.Minute
	seal := func(b []byte) []byte { // makes the checksum of a changed header right
		binary.BigEndian.PutUint32(b[68:], crc32.Checksum(b[:68], crc32.MakeTable(crc32.Castagnoli)))
		return b
	}
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		now    journal.Moment
		want   string
	}{
		"empty":             {func([]byte) []byte { return nil }, hour, "is no journal of connections"},
		"foreign":           {func([]byte) []byte { return []byte(`{"version": 1, "name": "wan0"}`) }, hour, "is no journal of connections"},
		"within the header": {func(b []byte) []byte { return b[:40] }, hour, "is cut short"},
		"behind the magic":  {func(b []byte) []byte { return b[:9] }, hour, "is cut short"},
		"within a record":   {func(b []byte) []byte { return b[:len(b)-10] }, hour, "is cut short"},
		"a record less":     {func(b []byte) []byte { return b[:len(b)-journal.RecordSize] }, hour, "is cut short"},
		"longer":            {func(b []byte) []byte { return append(b, 0) }, hour, "is damaged: the checksum of its records"},
		"a bit of a record": {func(b []byte) []byte { b[300] ^= 4; return b }, hour, "is damaged: the checksum of its records"},
		"a bit of the time": {func(b []byte) []byte { b[20] ^= 1; return b }, hour, "is damaged: the checksum of its header"},
		"zeros":             {func(b []byte) []byte { clear(b); return b }, hour, "is no journal of connections"},
		"other version":     {func(b []byte) []byte { b[9] = 2; return b }, hour, "is of version 2 and this program knows version 1"},
		"other card":        {func(b []byte) []byte { copy(b[48:], "wan1"); return seal(b) }, hour, `is about card "wan1"`},
		"stale":             {nil, later(began(), 24*time.Hour+time.Minute), "is 24h1m0s old, more than the 24h0m0s"},
		"of the future": {nil, func() journal.Moment { m := next; m.Wall = m.Wall.Add(-49 * time.Hour); return m }(),
			"was written at 2026-11-23T12:00:00Z, which is in the future"},
		"stale, after another boot": {nil, func() journal.Moment { m := next; m.Wall = m.Wall.Add(24 * time.Hour); return m }(), "is 25h0m0s old, more than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, conns(10), began())
			path := journal.Alive.Path(dir, "wan0")
			if c.change != nil {
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, c.change(b), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			j, err := journal.Load(journal.Alive, dir, "wan0", c.now)
			if err == nil {
				t.Fatalf("it is taken, with %d connections", j.Len())
			}
			if text := err.Error(); !strings.HasPrefix(text, "journal "+path+" "+c.want) || strings.Contains(text, "\n") {
				t.Errorf("got %q, want one sentence with %q", text, c.want)
			}
		})
	}
}

func TestTheClockMayBeSetBackWithinABoot(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, conns(1), began())
	now := later(began(), time.Minute)
	now.Wall = now.Wall.AddDate(-3, 0, 0)
	if j, err := journal.Load(journal.Alive, dir, "wan0", now); err != nil || j.Age != time.Minute {
		t.Errorf("got %v, %v, want an age of a minute", j, err)
	}
}

// After a power cut only the clock tells how old it is.
func TestAJournalOutlivesABoot(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, conns(1), began())
	now := began()
	now.Wall, now.Up, now.Boot = now.Wall.Add(3*time.Minute), 20*time.Second, [16]byte{9}
	if j, err := journal.Load(journal.Alive, dir, "wan0", now); err != nil || j.Len() != 1 || j.Age != 3*time.Minute {
		t.Errorf("got %v, %v, want one connection of 3 minutes ago", j, err)
	}
	now.Wall = began().Wall.Add(-time.Hour) // a machine without a clock of its own
	if j, err := journal.Load(journal.Alive, dir, "wan0", now); err != nil || j.Age != 0 {
		t.Errorf("got %v, %v, want it taken as new", j, err)
	}
}

// A crash in the middle of a new journal leaves the old one, and the next one
// takes the place of what was left half done.
func TestTheOldJournalStaysUntilTheNewOneIsWhole(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, conns(3), began())
	for range 2 { // as if killed twice
		w, err := journal.Create(journal.Alive, dir, "wan0")
		if err != nil {
			t.Fatal(err)
		}
		some := conns(2000)
		for i := range some {
			w.Add(&some[i])
		}
		if j, err := journal.Load(journal.Alive, dir, "wan0", began()); err != nil || j.Len() != 3 {
			t.Fatalf("got %v, %v while the new one is written, want the old 3", j, err)
		}
	}
	write(t, dir, conns(5), began())
	if j, err := journal.Load(journal.Alive, dir, "wan0", began()); err != nil || j.Len() != 5 {
		t.Fatalf("got %v, %v, want the new 5", j, err)
	}
	names(t, dir, "wan0.connections")
	if _, err := journal.Create(journal.Alive, dir, "wan0"); err != nil { // killed once more
		t.Fatal(err)
	}
	if err := errors.Join(journal.Remove(journal.Alive, dir, "wan0"), journal.Remove(journal.Alive, dir, "wan0")); err != nil {
		t.Error(err)
	}
	names(t, dir)
	if _, err := journal.Load(journal.Alive, dir, "wan0", began()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v without a journal", err)
	}
}

func TestAJournalThatCannotBeWrittenLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(journal.Alive.Path(dir, "wan0"), 0o700); err != nil { // no file can take this place
		t.Fatal(err)
	}
	w, err := journal.Create(journal.Alive, dir, "wan0")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(began()); err == nil {
		t.Error("it was written over a directory")
	}
	names(t, dir, "wan0.connections")
	if _, err := journal.Create(journal.Alive, filepath.Join(dir, "none"), "wan0"); err == nil {
		t.Error("it was written to where there is no directory")
	}
}

func names(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the directory has %v, want %v", got, want)
	}
}

func TestLargeJournalsAreWrittenLessOften(t *testing.T) {
	for written, want := range map[int]time.Duration{0: time.Second, 64_000: time.Second, 1 << 20: time.Second, 64 << 20: 64 * time.Second} {
		if got := journal.Pause(written, time.Second); got != want {
			t.Errorf("after %d bytes the pause is %v, want %v", written, got, want)
		}
	}
}

func TestTimeGoesOn(t *testing.T) {
	a, err := journal.Now()
	if err != nil {
		t.Fatal(err)
	}
	b, err := journal.Now()
	if err != nil || a.Boot != b.Boot || a.Boot == [16]byte{} || b.Up < a.Up {
		t.Errorf("got %v after %v, %v", b, a, err)
	}
}

// Whatever is in the file, nothing worse than an error comes of it.
func FuzzLoad(f *testing.F) {
	dir := f.TempDir()
	f.Add([]byte("LASTACKJ\x00\x01\x00\x40"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(journal.Alive.Path(dir, "wan0"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if j, err := journal.Load(journal.Alive, dir, "wan0", began()); err == nil {
			for range j.All() {
			}
		}
	})
}
