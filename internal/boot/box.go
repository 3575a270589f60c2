package boot

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/image/bundle"
	"github.com/lastack/lastack/image/slot"
)

// Where things are on a box.
const (
	ConfigFile    = "data/config/appliance.yaml"
	DefaultConfig = "etc/lastack/default.yaml"
	ControlSocket = "/run/lastack-init.sock"
	noticePath    = "run/lastack-notify.sock"
	storyPath     = "data/init/story.json"
)

// Options are what process 1 cannot know by itself.
type Options struct {
	NewLog    func(io.Writer) *slog.Logger
	Probe     func(ctx context.Context, config string) (Health, error) // asks the appliance that runs on that configuration
	Suspend   func(ctx context.Context, config string) error           // makes it save its connections and end
	Prepare   func() error                                             // for tests of boots: after data and ESP are mounted, before the appliance; nil does nothing
	NoConsole bool                                                     // no login on the serial port
}

// Box is the machine.
type Box struct {
	o       Options
	root    string // "/" but in tests
	ctx     context.Context
	cancel  context.CancelFunc
	log     *slog.Logger
	lines   *lines
	console io.Writer
	command string // line of the kernel
	release bundle.Release

	// What tests do without.
	mountFunc   func(source, target, fstype string, flags uintptr, data string) error
	insert      func(string) error
	chown       func(path string, uid, gid int) error
	dog         *watchdog
	modules     *modules
	procs       *procs
	control     *control
	slot        slot.Slot // "" if not known
	esp         *slot.ESP // nil if there is none
	espDevice   string
	dataMounted bool
	hostname    string
	stable      time.Duration
	trialTime   time.Duration

	// Of the goroutine of serve alone.
	appliance appliance
	login     login
	asking    bool
	asked     time.Time
	askErr    string
	heard     bool // this run of the appliance has answered
	answers   chan answer
	notices   chan notice
	orders    chan Order
	well      time.Time // since when all is well; zero if it is not
	saved     time.Time // the clock
	readOnly  bool      // DATA has become so
	checked   time.Time // whether it has

	installing sync.Mutex // held by an update; before espMu
	espMu      sync.Mutex // held while the ESP is written to; before mu
	mu         sync.Mutex // guards what follows
	story      Story
	trial      bool // the running slot is not good yet
	try        int
	health     Health
	pid        int // of the appliance
	problems   map[string]string
}

func newBox(root string, console io.Writer, o Options) *Box {
	b := &Box{
		o: o, root: root, console: console, lines: newLines(console), insert: insertModule, chown: os.Lchown, mountFunc: mount,
		stable: DefaultStable, trialTime: DefaultTrial, problems: make(map[string]string),
		answers: make(chan answer, 1), notices: make(chan notice, 16), orders: make(chan Order, 4),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.log = o.NewLog(b.lines)
	return b
}

func (b *Box) path(name string) string { return filepath.Join(b.root, name) }

// start begins a goroutine in which a panic is the end of the boot, as it would be in any other program.
func (b *Box) start(f func()) {
	go func() {
		defer b.catch()
		f()
	}()
}

// catch is deferred by every goroutine.
func (b *Box) catch() {
	if v := recover(); v != nil {
		b.panicked(v, debug.Stack())
	}
}

// panicked says what happened where it can still be read, and boots again. The kernel would do so
// too if process 1 ended, but not sync.
func (b *Box) panicked(v any, stack []byte) {
	fmt.Fprintf(b.console, "\r\nlastack: PANIC in process 1: %v\r\n%s\r\n", v, stack)
	why := fmt.Sprintf("process 1 panicked: %v", v)
	done := make(chan struct{})
	go func() { // the panic may have left a lock held: don't wait for ever
		defer close(done)
		defer func() { _ = recover() }()
		b.remember(func(r *BootRecord) { r.End = why })
		_, _ = fmt.Fprintf(b.lines, "%s\n%s\n", why, stack)
	}()
	select {
	case <-done:
	case <-time.After(3 * time.Second):
	}
	unix.Sync()
	b.restart(unix.LINUX_REBOOT_CMD_RESTART)
}

// warn says what went wrong and didn't stop the boot.
func (b *Box) warn(what string, err error) {
	if err != nil {
		b.log.Warn(what+": "+err.Error(), "part", what)
	}
}

// problem is something that stays wrong: it's in the log, in capitals if it is grave, and in status.
func (b *Box) problem(part, what string) {
	b.log.Error(what)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems[part] = what
}

// remember changes the record of this boot and brings it to the disk.
func (b *Box) remember(change func(*BootRecord)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.story.Boots) == 0 {
		return // it's too early
	}
	before := *b.story.now()
	change(b.story.now())
	if *b.story.now() != before {
		b.saveStoryLocked()
	}
}

func (b *Box) saveStoryLocked() {
	if err := b.story.save(b.path(storyPath)); err != nil {
		b.log.Warn(err.Error())
	}
}

// trouble remembers the last thing that was wrong, in case the end comes without a word.
func (b *Box) trouble(what string) { b.remember(func(r *BootRecord) { r.Last = what }) }

func (b *Box) onTrial() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.trial
}

func (b *Box) setPID(pid int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pid = pid
}

// sinceBoot is the time since the kernel began.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
