package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/internal/journal"
	"github.com/lastack/lastack/internal/wholefile"
	"github.com/lastack/lastack/netif"
	"github.com/lastack/lastack/services/admin"
	"github.com/lastack/lastack/stack"
	"github.com/lastack/lastack/stack/flow"
)

// What an upgrade hands over can also lie in a file between two runs, for a
// planned restart or reboot: the same state, read once.

const (
	suspendedName  = "suspended"
	suspendedMagic = "lastack suspended state 1\n"
	// suspendedFor is how old it may be: Linux gives a connection up after some
	// 15 minutes without an acknowledgement (tcp_retries2).
	suspendedFor = 15 * time.Minute
)

// suspended is what the file holds behind its sum.
type suspended struct {
	Greeting greeting
	State    []byte // JSON of a handedState
	Flows    []byte
	Conns    []byte
	Wall     time.Time
}

func suspendedPath(dir string) string {
	return filepath.Join(cmp.Or(dir, netif.DefaultStateDir), suspendedName)
}

// Suspend implements admin.Source: everything is written down, and the process
// ends without a word to its peers. The cards stay as they are, so that the
// kernel answers nobody; the next start goes on.
func (d *daemon) Suspend() (out admin.Suspended, err error) {
	defer d.alone()()
	if err := d.mayHandOver(); err != nil {
		return out, err
	}
	var sample bytes.Buffer
	if err := stack.Sample(&sample); err != nil {
		return out, err
	}
	d.gate.Hold(true)
	defer d.gate.Hold(false)
	defer haste()()
	d.hangUp(netip.Addr{}) // what is encrypted can't be handed over
	d.shakeHands()
	if err := d.comeToRest(); err != nil {
		return out, err
	}
	out.File = suspendedPath(d.stateDir)
	whole, n, err := d.image(sample.Bytes())
	if err == nil && d.admin != nil {
		err = d.admin.Withdraw(true)
	}
	if err == nil {
		out.Connections, out.Bytes = n, len(whole)
		err = wholefile.Write(out.File, whole, 0o600) // it holds what users sent
	}
	if err != nil {
		d.log.Error("the state could not be saved, everything goes on as before", "error", err)
		return out, errors.Join(err, d.goOn())
	}
	for _, nic := range d.nics {
		nic.Leave()
	}
	d.log.Info("suspended: the next start goes on", "connections", out.Connections, "file", out.File, "bytes", out.Bytes)
	close(d.succeeded)
	return out, nil
}

// image is the whole file, and how many connections it has.
func (d *daemon) image(sample []byte) (whole []byte, n int, err error) {
	h, files, err := d.collect()
	if err != nil {
		return nil, 0, err
	}
	for _, f := range files {
		_ = f.Close() // they are of this run
	}
	for _, s := range d.supervisor.Services() {
		c := s.Counters()
		n += int(c.Active + c.Settling)
	}
	out := suspended{
		Greeting: greeting{Form: handoverForm, Version: version, Layout: flow.Layout(), Sample: sample},
		Flows:    h.flows, Conns: h.conns, Wall: time.Now().Round(0),
	}
	if out.State, err = h.encode(); err != nil {
		return nil, 0, err
	}
	var body bytes.Buffer
	if err := gob.NewEncoder(&body).Encode(out); err != nil {
		return nil, 0, fmt.Errorf("write the state: %w", err)
	}
	sum := sha256.Sum256(body.Bytes())
	return bytes.Join([][]byte{[]byte(suspendedMagic), sum[:], body.Bytes()}, nil), n, nil
}

// unsuspend takes in what a suspended run has left, once. Without such a file it
// returns nil; one that can't be used is refused with a word.
func (d *daemon) unsuspend() *takeover {
	path := suspendedPath(d.stateDir)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var t *takeover
	if err == nil {
		t, err = readSuspended(data, time.Now())
	}
	err = errors.Join(err, os.Remove(path)) // it is true only once
	if err != nil {
		d.log.Warn("the state of the suspended run is not used, this one starts without", "file", path, "error", err)
		return nil
	}
	return t
}

func readSuspended(data []byte, now time.Time) (*takeover, error) {
	body, ok := bytes.CutPrefix(data, []byte(suspendedMagic))
	if !ok {
		return nil, errors.New("it is of another form, or damaged")
	}
	if len(body) < sha256.Size || sha256.Sum256(body[sha256.Size:]) != [sha256.Size]byte(body) {
		return nil, errors.New("it is damaged")
	}
	var in suspended
	if err := gob.NewDecoder(bytes.NewReader(body[sha256.Size:])).Decode(&in); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	if err := in.Greeting.understood(); err != nil {
		return nil, err
	}
	t := &takeover{flows: in.Flows, conns: in.Conns, gap: now.Sub(in.Wall), began: now, went: true}
	switch {
	case t.gap < 0:
		return nil, fmt.Errorf("it is of a time to come, %s: the clock has been set back", in.Wall.Format(time.DateTime))
	case t.gap > suspendedFor:
		return nil, fmt.Errorf("it is %s old, and peers have given up after %s", t.gap.Round(time.Second), suspendedFor)
	}
	return t, t.decode(in.State)
}

// forgetJournals removes what a crash would have been told by: the connections
// go on.
func (d *daemon) forgetJournals() {
	for _, i := range d.conf().Interfaces {
		if err := journal.Remove(journal.Alive, d.journalDir(), i.Name); err != nil {
			d.log.Warn("a journal is left", "error", err)
		}
	}
}

func suspendCommand() *cli.Command {
	return &cli.Command{
		Name:  "suspend",
		Usage: "save all connections and end, for a planned restart; the next run goes on with them",
		Description: "Peers are told nothing: until the next `run` their segments are not answered,\n" +
			"and they send them again. It may be away for 15 minutes, a reboot included if\n" +
			"the state directory outlives it. The cards stay claimed meanwhile; `nic\n" +
			"release` gives them back to the kernel, which then resets all connections.\n\n" +
			"To end connections in order there is `appliance drain --stop`.",
		Flags:  []cli.Flag{socketFlag(), jsonFlag()},
		Action: suspendAction,
	}
}

func suspendAction(c *cli.Context) error {
	if c.NArg() > 0 {
		return usageErr{errors.New("suspend takes no argument")}
	}
	out, err := admin.NewClient(c.String("socket")).Suspend(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c, out)
	}
	_, err = io.WriteString(c.App.Writer, fmt.Sprintf("%d connections are saved in %s; start the appliance again within %s\n", out.Connections, out.File, suspendedFor))
	return err
}
