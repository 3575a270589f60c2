package slot

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/lastack/lastack/image/bundle"
)

// Slot is "A" or "B".
type Slot string

// The two slots.
const (
	A Slot = "A"
	B Slot = "B"
)

// Other is the one that is not s.
func (s Slot) Other() Slot {
	if s == A {
		return B
	}
	return A
}

// Valid tells whether s is one of the two.
func (s Slot) Valid() bool { return s == A || s == B }

func (s Slot) id() string { return strings.ToLower(string(s)) }

// Tries is how many boots a new slot gets to show that it works.
const Tries = 3

// Entry is one boot entry.
type Entry struct {
	Slot    Slot
	Counted bool // the loader counts its boots: it is new, on trial or bad
	Left    int  // tries
	Done    int  // tries

	Release  bundle.Release // zero if the file does not say
	Title    string
	SortKey  string
	Sequence uint64 // the loader takes the good entry with the highest
	Options  string // kernel command line
}

// State tells people what the loader makes of it.
func (e Entry) State() string {
	switch {
	case !e.Counted:
		return "good"
	case e.Left == 0:
		return fmt.Sprintf("bad: tried %d times without success", e.Done)
	case e.Done == 0:
		return "new: not booted yet"
	}
	return fmt.Sprintf("on trial: %d of %d tries used", e.Done, e.Done+e.Left)
}

// Bad tells whether the loader has given it up.
func (e Entry) Bad() bool { return e.Counted && e.Left == 0 }

// nameForm is https://uapi-group.org/specifications/specs/boot_loader_specification/#boot-counting
var nameForm = regexp.MustCompile(`^([ab])(?:\+(\d{1,9})(?:-(\d{1,9}))?)?\.conf$`)

// parseName takes the state from a file's name. FAT does not mind the case.
func parseName(name string) (e Entry, ok bool) {
	m := nameForm.FindStringSubmatch(strings.ToLower(name))
	if m == nil {
		return e, false
	}
	e.Slot, e.Counted = Slot(strings.ToUpper(m[1])), m[2] != ""
	e.Left, _ = strconv.Atoi(m[2]) // digits, or "" for 0
	e.Done, _ = strconv.Atoi(m[3])
	return e, true
}

// Name is the file's name.
func (e Entry) Name() string {
	switch {
	case !e.Counted:
		return e.Slot.id() + ".conf"
	case e.Done == 0:
		return fmt.Sprintf("%s+%d.conf", e.Slot.id(), e.Left)
	}
	return fmt.Sprintf("%s+%d-%d.conf", e.Slot.id(), e.Left, e.Done)
}

// releaseMark begins the comment that holds the release; the loader skips it.
const releaseMark = "# lastack "

// Text is the file's content.
func (e Entry) Text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "title    %s\nsort-key %s\nversion  %d\nlinux    /%s/%s\ninitrd   /%s/%s\noptions  %s\n",
		e.Title, e.SortKey, e.Sequence, e.Slot, bundle.Kernel, e.Slot, bundle.Initrd, e.Options)
	if text, err := json.Marshal(e.Release); err == nil {
		fmt.Fprintf(&b, "%s%s\n", releaseMark, text)
	}
	return b.Bytes()
}

// parseText reads what Text has written, or what else is in such a file.
func (e *Entry) parseText(text []byte) {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if mark, ok := strings.CutPrefix(line, releaseMark); ok {
			_ = json.Unmarshal([]byte(mark), &e.Release) // without it the title has to do
			continue
		}
		key, value, _ := strings.Cut(line, " ")
		value = strings.TrimSpace(value)
		switch key {
		case "title":
			e.Title = value
		case "sort-key":
			e.SortKey = value
		case "version":
			e.Sequence, _ = strconv.ParseUint(value, 10, 64) // of another form: 0, any of ours is newer
		case "options":
			e.Options = strings.TrimSpace(e.Options + " " + value)
		}
	}
}

const (
	slotOption  = "lastack.slot="
	resetOption = "lastack.reset="
)

// optionsFor is a command line for slot s.
func optionsFor(options string, s Slot) string {
	kept := []string{slotOption + string(s)}
	for _, o := range strings.Fields(options) {
		if !strings.HasPrefix(o, slotOption) && !strings.HasPrefix(o, resetOption) {
			kept = append(kept, o)
		}
	}
	return strings.Join(kept, " ")
}

// FromCommandLine is the running slot, as the kernel's command line says. The
// loader's own variable would be of an earlier run of the loader if the firmware has
// started it more than once.
func FromCommandLine(line string) (Slot, bool) {
	for _, o := range strings.Fields(line) {
		if s, ok := strings.CutPrefix(o, slotOption); ok && Slot(s).Valid() {
			return Slot(s), true
		}
	}
	return "", false
}
