package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lastack/lastack/internal/dhcp"
	"github.com/lastack/lastack/internal/handover"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/admin"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
)

// An upgrade in place, in the order in which the two processes speak:
//
//	old  greeting    configuration, form of the state, a sample connection
//	new  ready       it can read all that; nothing has been paused yet
//	     (old comes to rest: frames wait in the packet sockets)
//	old  state       services' sessions, with the packet sockets
//	old  flows, connections
//	new  loaded      it could go on
//	old  go          the last word: from here the old one sends nothing more
//	new  serving     the old one ends
//
// Until "go" either may give up, and the old one goes on.

// handoverForm is the version of what the messages mean.
const handoverForm = 2

// Bounds of an upgrade: of a start without connections, of what is read and
// made again, and of the word in the end.
const (
	readyWithin    = 20 * time.Second
	loadedWithin   = 30 * time.Second
	servingWithin  = 10 * time.Second
	shakeHands     = 250 * time.Millisecond // for handshakes under way
	shakeHandsTick = 2 * time.Millisecond
)

// greeting is what the new process has to understand first.
type greeting struct {
	Form    int    `json:"form"`
	Version string `json:"version"`
	Layout  string `json:"layout"` // of the flow table's records
	File    string `json:"file"`
	Config  []byte `json:"config"`
	Sample  []byte `json:"sample"`
}

// ready is the answer.
type ready struct {
	Version    string `json:"version"`
	Unreadable string `json:"unreadable,omitempty"` // why it can't take connections over, which it could run without
}

// unreadableError says that another version runs with our configuration, but not
// with our connections.
type unreadableError struct{ ready }

// Error is the new version's sentence.
func (e *unreadableError) Error() string { return e.Unreadable }

// handedState is what is no connection.
type handedState struct {
	PID      int                        `json:"pid"`
	Clock    time.Duration              `json:"clock"` // of the stack, when it rested
	Loops    time.Duration              `json:"loops"` // of the loops
	Began    time.Time                  `json:"began"` // the first process of the line
	Cards    []handedCard               `json:"cards"`
	Services map[string]*services.Saved `json:"services"`
	Leases   map[string]*dhcp.Lease     `json:"leases,omitempty"`
	// Advertised are the addresses and routes by router advertisements.
	Advertised []stack.Lease `json:"advertised,omitempty"`
}

type handedCard struct {
	Name    string `json:"name"`
	MAC     []byte `json:"mac"`
	Sockets int    `json:"sockets"`
}

// loaded is what the new process has made of it.
type loaded struct {
	Connections int `json:"connections"`
	Lost        int `json:"lost"`
}

// Upgrade implements admin.Source.
func (d *daemon) Upgrade(path string, liveOnly bool) (up admin.Upgraded, err error) {
	defer d.alone()()
	begun := time.Now()
	defer func() {
		if err != nil {
			d.log.Error("the upgrade has failed, everything goes on as before", "binary", path, "error", err)
		}
	}()
	if path == "" {
		path = d.binary
	}
	if err := d.mayHandOver(); err != nil {
		return up, err
	}
	if err := checkBinary(path); err != nil {
		return up, err
	}
	d.log.Info("upgrading", "binary", path)
	line, child, err := d.succeed(path)
	if err != nil {
		return up, err
	}
	defer line.Close() // nobody hears more
	up.From, up.PID = version, child.Process.Pid
	err = d.greet(line, &up)
	if err == nil {
		err = d.handOver(line, &up)
	}
	if err != nil {
		err = errors.Join(err, dismiss(child))
	}
	var unreadable *unreadableError
	if errors.As(err, &unreadable) && !liveOnly {
		return d.drainFor(path, unreadable), nil
	}
	if err != nil {
		return up, err
	}
	d.log.Info("upgraded", "pid", up.PID, "version", up.Version, "connections", up.Connections, "lost", up.Lost,
		"pause", up.Rested.Round(time.Millisecond), "took", time.Since(begun).Round(time.Millisecond))
	d.manager.say(fmt.Sprintf("MAINPID=%d", up.PID))
	d.heir = child.Process
	close(d.succeeded)
	return up, nil
}

// alone keeps everybody else from changing or asking anything until the function
// returned is called. The order matters: an answer under way may be waiting to
// change the configuration.
func (d *daemon) alone() (end func()) {
	if d.admin != nil {
		d.admin.Rest()
	}
	d.reloading.Lock()
	return func() {
		d.reloading.Unlock()
		if d.admin != nil {
			d.admin.Wake()
		}
	}
}

// mayHandOver tells why nothing can be handed over now.
func (d *daemon) mayHandOver() error {
	switch {
	case d.succeededAlready():
		return errors.New("it has handed everything over already")
	case d.ending():
		return errors.New("the appliance is about to stop")
	case d.pending != nil:
		return errors.New("a change of the configuration waits for its confirmation: confirm it or roll it back first")
	}
	for s := range d.retired {
		if s.Phase() < services.Closed {
			return fmt.Errorf("service %s, which a reload has removed, still drains: wait for it", s.Name())
		}
	}
	return nil
}

func (d *daemon) succeededAlready() bool {
	select {
	case <-d.succeeded:
		return true
	default:
		return false
	}
}

// machines are the ELF names of what we run on.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// checkBinary finds out early what the kernel would say in its own words.
func checkBinary(path string) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no file %s", path)
	case err != nil:
		return fmt.Errorf("look at the new binary: %w", err)
	case !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s is not an executable file", path)
	}
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s is not a program for Linux", path)
	}
	defer f.Close()
	if want := machines[runtime.GOARCH]; f.Machine != want {
		return fmt.Errorf("%s is for another architecture: %s, and this machine runs %s", path, f.Machine, want)
	}
	return nil
}

// succeed starts the new process.
func (d *daemon) succeed(path string) (*handover.Line, *exec.Cmd, error) {
	line, theirs, err := handover.Pair()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	child := exec.Command(path, append(ownArgs(d.args), "--"+takeOverFlag, "3")...)
	// The service manager's watchdog is for the process that has this number.
	child.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "WATCHDOG_PID=") })
	child.Stdout, child.Stderr, child.ExtraFiles = os.Stdout, os.Stderr, []*os.File{theirs}
	if err := child.Start(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start the new binary: %w", err), line.Close())
	}
	return line, child, nil
}

// ownArgs are a process's arguments but the flags that the process before it gave.
func ownArgs(args []string) (rest []string) {
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "--" + takeOverFlag:
			i++
		case "--" + tryFlag:
		default:
			rest = append(rest, args[i])
		}
	}
	return rest
}

// dismiss ends a new process that will not take over.
func dismiss(child *exec.Cmd) error {
	if err := child.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = child.Wait() // its status is that of the kill, or said in its own words
	return nil
}

// greet has the new process show that it can take over.
func (d *daemon) greet(line *handover.Line, up *admin.Upgraded) error {
	var sample bytes.Buffer
	if err := stack.Sample(&sample); err != nil {
		return err
	}
	conf := d.conf()
	if err := line.Within(readyWithin); err != nil {
		return err
	}
	var answer ready
	err := line.SendJSON("the greeting", greeting{handoverForm, version, flow.Layout(), conf.File, conf.Text, sample.Bytes()})
	if err == nil {
		err = line.ReceiveJSON("its first word", &answer)
	}
	if err != nil {
		return fmt.Errorf("the new binary cannot take over: %w", err)
	}
	up.Version = answer.Version
	if answer.Unreadable != "" {
		return &unreadableError{answer}
	}
	return nil
}

// drainFor ends all connections in order, and has the new version start then.
func (d *daemon) drainFor(path string, why *unreadableError) admin.Upgraded {
	d.next = path
	how := d.howToStop()
	d.log.Warn("the new version cannot take the connections over: they drain, and then it starts", "binary", path, "version", why.Version, "why", why.Unreadable)
	d.askStop()
	return admin.Upgraded{PID: os.Getpid(), Version: why.Version, From: version, Drains: why.Unreadable, Within: how.Announce + how.Max}
}

// startNext puts the binary in this process's place, when the cards are free.
func (d *daemon) startNext() error {
	args := append([]string{d.next}, ownArgs(d.args)...)
	if d.toTry {
		args = append(args, "--"+tryFlag)
	}
	d.log.Info("all is drained: starting again", "binary", d.next)
	err := syscall.Exec(d.next, args, os.Environ())
	d.giveUpTrial()
	return fmt.Errorf("all is drained, and %s does not start: %w", d.next, err)
}

// handOver comes to rest and lets the new process go on; if that fails this one
// does.
func (d *daemon) handOver(line *handover.Line, up *admin.Upgraded) error {
	if err := line.Within(loadedWithin); err != nil {
		return err
	}
	d.gate.Hold(true)
	defer d.gate.Hold(false)
	begun := time.Now()
	defer haste()()
	d.hangUp(netip.Addr{}) // what is encrypted can't be handed over
	d.shakeHands()
	shaken := time.Now()
	if err := d.comeToRest(); err != nil {
		return err
	}
	d.log.Debug("at rest", "handshakes", shaken.Sub(begun).Round(time.Millisecond), "rest", time.Since(shaken).Round(time.Millisecond))
	begun = shaken
	got, err := d.tell(line)
	if err == nil && d.admin != nil {
		err = d.admin.Withdraw(false)
	}
	if err == nil {
		err = line.Send("go", nil)
	}
	if err != nil {
		return errors.Join(err, d.goOn())
	}
	for _, nic := range d.nics {
		nic.Leave()
	}
	// It has the last word: what it sent can't be unsent here.
	if err := errors.Join(line.Within(servingWithin), line.ReceiveJSON("its last word", &struct{}{})); err != nil {
		d.log.Error("the new process has taken over and does not answer", "pid", up.PID, "error", err)
	}
	up.Connections, up.Lost, up.Rested = got.Connections, got.Lost, time.Since(begun)
	return nil
}

// shakeHands lets handshakes under way finish, and the services take them.
func (d *daemon) shakeHands() {
	for end := time.Now().Add(shakeHands); d.flows.HalfOpen() > 0 && time.Now().Before(end); {
		time.Sleep(shakeHandsTick)
	}
	ctx, cancel := contextWithin(shakeHands)
	defer cancel()
	for range 2 {
		_ = d.loops.Turn(ctx) // one that is late is no reason to fail
	}
}

// comeToRest makes everything stand still that changes a connection.
func (d *daemon) comeToRest() error {
	if d.keeper != nil {
		d.keeper.close()
	}
	d.loops.Pause()
	for _, ep := range d.endpoints {
		ep.Pause()
	}
	// What has come is handled to the end, and what that sends leaves: it would
	// have to be sent again by a timer.
	if err := d.stack.Pause(); err != nil {
		return err
	}
	for _, delay := range d.delays {
		delay.Flush() // or the ACKs it holds would open windows again
	}
	d.flows.CloseWindows()
	for _, ep := range d.endpoints {
		ep.Mute()
	}
	return nil
}

// goOn is the end of a rest that nobody used.
func (d *daemon) goOn() (err error) {
	d.stack.Resume()
	for _, ep := range d.endpoints {
		ep.Resume()
	}
	d.flows.OpenWindows()
	d.loops.Resume()
	if d.keeper != nil {
		d.keeper = keep(d)
	}
	if d.admin != nil {
		err = d.admin.Return(d.conf().Admin.Socket)
	}
	return err
}

// takeOverFlag names the line that a new process inherits.
const takeOverFlag = "take-over"
