package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "take the network cards and serve until SIGTERM",
		Description: "SIGTERM or SIGINT drains: new connections are refused, the others get FIN in\n" +
			"both directions and their last ACK, the cards go back to the kernel as they\n" +
			"were. A second one makes the deadline now; SIGQUIT resets what is left.\n\n" +
			"Exit status: 0 every connection ended with its last ACK, 3 some had to be\n" +
			"reset, 4 some FINs stayed unacknowledged, 2 the configuration is wrong,\n" +
			"1 anything else.",
		Flags: []cli.Flag{
			configFlag(),
			stateDirFlag(),
			&cli.IntFlag{Name: "threads", Usage: "let `N` threads run Go code at once; 0 is half the cores", EnvVars: []string{"APPLIANCE_THREADS"}},
			&cli.StringFlag{Name: "cpu-profile", Usage: "write where the CPU's time goes to `FILE`.PID, for go tool pprof and make pgo", EnvVars: []string{"APPLIANCE_CPU_PROFILE"}},
			&cli.IntFlag{Name: takeOverFlag, Hidden: true},
			&cli.BoolFlag{Name: tryFlag, Hidden: true},
			&cli.StringFlag{Name: "log-level", Usage: "log from `LEVEL` on: debug, info, warn, error", Value: "info", EnvVars: []string{"APPLIANCE_LOG_LEVEL"}},
			&cli.StringFlag{Name: "log-format", Usage: "log as `FORMAT`: auto, text, json", Value: "auto", EnvVars: []string{"APPLIANCE_LOG_FORMAT"}},
		},
		Action: runAction,
	}
}

func runAction(c *cli.Context) error {
	log, err := newLog(c.App.ErrWriter, c.String("log-format"), c.String("log-level"))
	if err != nil {
		return err
	}
	var cfg *config.Config
	var taking *takeover
	var try *trial
	var takenBack error
	if fd := c.Int(takeOverFlag); fd > 0 {
		taking, cfg, err = takeOver(fd)
	} else {
		cfg, try, takenBack, err = configToRun(c.String("config"), c.String("state-dir"), c.Bool(tryFlag))
	}
	if takenBack != nil {
		log.Error(takenBack.Error())
	}
	if err != nil {
		return explainLoad(c, err)
	}
	for _, w := range cfg.Warnings() {
		log.Warn(w.Message, "file", fmt.Sprintf("%s:%d:%d", w.File, w.Pos.Line, w.Pos.Column), "key", w.Key)
	}
	if err := setThreads(c.Int("threads")); err != nil {
		return err
	}
	profile, err := startProfile(c.String("cpu-profile"))
	if err != nil {
		return err
	}
	d := &daemon{
		log: log, retired: make(map[services.Service]bool), stateDir: c.String("state-dir"), started: time.Now(),
		args: os.Args[1:], taking: taking, trial: try, succeeded: make(chan struct{}),
	}
	if d.binary, err = os.Executable(); err != nil {
		log.Warn("SIGUSR2 will not find this program's file", "error", err)
	}
	d.cfg.Store(cfg)
	err = serve(c.Context, d)
	if failed := profile(); failed != nil {
		log.Warn("the profile is not whole", "error", failed)
	}
	var stopped exitCode
	if d.next != "" && (err == nil || errors.As(err, &stopped)) {
		return d.startNext()
	}
	return err
}

// serve runs d from start to end.
func serve(parent context.Context, d *daemon) error {
	stop := watchSignals(parent, d.log)
	defer stop.close()
	d.askStop, d.asked = stop.stop, func() bool { return stop.asked.Err() != nil }
	ctx, cancel := context.WithCancel(parent)
	var tidying sync.WaitGroup
	tidying.Go(func() { tidy(ctx) })
	defer tidying.Wait()
	defer cancel()
	d.manager = newManager(d.log)
	defer d.manager.close()
	begun := time.Now()
	if d.taking == nil {
		d.taking = d.unsuspend()
	}
	err := d.start(stop.asked)
	if err != nil && d.taking != nil && d.taking.line == nil && stop.asked.Err() == nil {
		d.log.Warn("cannot go on where the suspended run ended, starting without", "error", errors.Join(err, d.stop()))
		d.renew()
		err = d.start(stop.asked)
	}
	if err != nil && d.trial != nil && stop.asked.Err() == nil {
		if back := d.untry(errors.Join(err, d.stop())); back != nil {
			return back
		}
		d.renew()
		err = d.start(stop.asked)
	}
	if err != nil {
		if d.taking != nil {
			_ = d.taking.refuse(err) // if it still listens
		}
		err = errors.Join(err, d.stop())
		if stop.asked.Err() != nil && errors.Is(err, context.Canceled) {
			d.log.Info("stopped before it was ready")
			return nil
		}
		return err
	}
	how := "start"
	if d.taking != nil {
		if d.taking.line != nil {
			how = "upgrade"
		}
		d.took()
	}
	if d.trial != nil {
		d.tried()
	} else if err := d.keepConfig(d.conf(), how, false); err != nil {
		d.log.Warn("the history has a gap", "error", err)
	}
	d.log.Info("ready", "version", version, "config", d.conf().File, "services", len(d.conf().Services),
		"threads", runtime.GOMAXPROCS(0), "took", time.Since(begun).Round(time.Millisecond))
	d.manager.ready(ctx, serving(d.conf()), d.loops.Turn)
	d.untilAsked(stop)
	d.finishHandOver()
	if d.succeededAlready() {
		return d.leave(stop)
	}
	d.endChanges()
	if d.next != "" {
		d.manager.reloading()
		d.manager.extend(d.stopTime())
	} else {
		d.manager.stopping(d.stopTime())
	}
	report := d.drain(stop)
	if stop.hurry.Err() != nil { // whoever asks to stop now means both
		d.notAgain()
	}
	if err := d.stop(); err != nil {
		d.giveUpTrial()
		return err
	}
	d.log.Info("bye", "clean", report.Clean, "reset", report.Reset, "unacked", report.Unacked)
	return status(report)
}

// untilAsked returns when the process is asked to stop or another has taken its
// place, and reloads and upgrades meanwhile.
func (d *daemon) untilAsked(stop *stopSignals) {
	m := d.manager
	for {
		select {
		case <-stop.asked.Done():
			return
		case <-d.succeeded:
			return
		case <-stop.upgrade:
			_, _ = d.Upgrade("", false) // it says in the log how that went
		case <-stop.reload:
			m.reloading()
			if _, err := d.Reload(); err != nil {
				d.log.Error("SIGHUP: " + err.Error())
			}
			m.say(serving(d.conf()))
		}
	}
}

// finishHandOver waits for one that has begun: it comes first.
func (d *daemon) finishHandOver() {
	d.reloading.Lock()
	defer d.reloading.Unlock()
}

// leave ends a process that has handed everything over: cards, connections and
// the files about them are no longer its own. If it was asked to stop meanwhile,
// its heir is the one that was meant.
func (d *daemon) leave(stop *stopSignals) (err error) {
	if d.admin != nil {
		ctx, cancel := contextWithin(time.Second)
		defer cancel()
		err = d.admin.Close(ctx) // whoever asked for the upgrade is told
	}
	if stop.close() && d.heir != nil {
		if err := d.heir.Signal(syscall.SIGTERM); err != nil {
			d.log.Warn("the new process was not told to stop", "pid", d.heir.Pid, "error", err)
		}
	}
	return err
}

func status(r services.Report) error {
	switch {
	case r.Reset > 0:
		return exitCode(exitReset)
	case r.Unacked > 0:
		return exitCode(exitUnacked)
	}
	return nil
}

// explainLoad shows every mistake of a configuration, each with its place.
func explainLoad(c *cli.Context, err error) error {
	var wrong config.Errors
	if errors.As(err, &wrong) {
		return refuse(c, wrong)
	}
	return err
}

// setThreads leaves the kernel its share: it receives and sends every frame on
// the same cores, and a Go thread that waits for one is slower than none. On 2
// cores 1 thread does more with four streams than 2, and the rest as well
// (2026-11-23, docs/performance.md).
func setThreads(n int) error {
	if n < 0 || n > 1024 {
		return usageErr{fmt.Errorf("threads %d: allowed are 0 to 1024", n)}
	}
	if n == 0 {
		if os.Getenv("GOMAXPROCS") != "" {
			return nil
		}
		n = max(1, runtime.GOMAXPROCS(0)/2)
	}
	runtime.GOMAXPROCS(n)
	return nil
}

// logRest names the connections that a drain could not end well.
func logRest(log *slog.Logger, r services.Report) {
	const most = 20
	for i, e := range r.Rest {
		if i == most {
			log.Warn("and others", "connections", len(r.Rest)-most)
			return
		}
		log.Warn("a connection did not end well", "conn", e.ID, "service", e.Service, "client", e.ClientAddr,
			"backend", e.BackendAddr, "outcome", e.Outcome, "reason", e.Reason, "detail", e.Detail,
			"client_state", e.Client.State, "backend_state", e.Backend.State)
	}
}
