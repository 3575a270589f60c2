//go:build boottest

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lastack/lastack/internal/boot"
)

// The binary that boot tests put on their images: the real one, and in addition
// it takes commands on the console without a login, and fails in ways that a
// real one would not on request. `sabotage=HOW` on the kernel's command line says how, and
// comes as process 1's environment.

// sabotage is before anything else.
func sabotage(o boot.Options) boot.Options {
	switch os.Getenv("sabotage") {
	case "exit":
		os.Exit(1) // the kernel panics
	case "hang":
		o.Prepare = func() error { forever(); return nil }
		return o
	}
	o.NoConsole = true // its place is taken
	var deaf atomic.Int32
	newLog := o.NewLog
	o.NewLog = func(w io.Writer) *slog.Logger {
		return slog.New(deafHandler{newLog(w).Handler(), &deaf})
	}
	prepare := o.Prepare
	o.Prepare = func() error {
		go commands(&deaf)
		if prepare == nil {
			return nil
		}
		return prepare()
	}
	return o
}

func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

const (
	hangs  = 1
	panics = 2
)

// deafHandler holds up whoever logs, or makes it panic: so the health loop does.
type deafHandler struct {
	slog.Handler
	deaf *atomic.Int32
}

func (h deafHandler) Handle(ctx context.Context, r slog.Record) error {
	switch h.deaf.Load() {
	case hangs:
		forever()
	case panics:
		h.deaf.Store(0)
		panic("asked for")
	}
	return h.Handler.Handle(ctx, r)
}

// commands runs what comes on the console, a line each, and ends each answer with its status.
func commands(deaf *atomic.Int32) {
	f, err := os.OpenFile("/dev/console", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return
	}
	for in := bufio.NewScanner(f); in.Scan(); {
		words := strings.Fields(in.Text())
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "stop-appliance":
			signalAppliance(syscall.SIGSTOP)
		case "kill-appliance":
			signalAppliance(syscall.SIGKILL)
		case "hang-init":
			deaf.Store(hangs)
			signalAppliance(syscall.SIGKILL)
		case "panic-init":
			deaf.Store(panics)
			signalAppliance(syscall.SIGKILL)
		case "crash-kernel":
			_ = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
		case "show":
			text, err := os.ReadFile(strings.ReplaceAll(words[1], "APPLIANCE", fmt.Sprint(appliancePID())))
			fmt.Fprintf(f, "%s\r\n%v\r\n<exit 0>\r\n", text, err)
		case "put": // FILE, and a line of text
			err := os.WriteFile(words[1], []byte(strings.Join(words[2:], " ")+"\n"), 0o644)
			fmt.Fprintf(f, "%v\r\n<exit 0>\r\n", err)
		case "confined":
			// Another process: this one must stay as it is.
			out, _ := run(append([]string{boot.ConfinedCommand, "--"}, words[1:]...))
			fmt.Fprintf(f, "%s\r\n<exit 0>\r\n", out)
		default:
			var out strings.Builder
			code := execute(context.Background(), append([]string{"appliance"}, words...), &out, &out)
			fmt.Fprintf(f, "%s\r\n<exit %d>\r\n", strings.ReplaceAll(out.String(), "\n", "\r\n"), code)
		}
	}
}

func signalAppliance(s syscall.Signal) {
	if pid := appliancePID(); pid > 0 {
		_ = syscall.Kill(pid, s)
	}
}

func appliancePID() int {
	st, err := boot.NewClient(boot.ControlSocket).Status(context.Background())
	if err != nil {
		return 0
	}
	return st.Appliance
}

// run is a process of this binary, and what it says; process 1's reaper takes its status.
func run(args []string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	_, err = os.StartProcess("/init", append([]string{"appliance"}, args...), &os.ProcAttr{Dir: "/", Files: []*os.File{nil, w, w}})
	_ = w.Close()
	if err != nil {
		return "", err
	}
	out, err := io.ReadAll(r)
	return string(out), err
}

// sabotageAppliance is the appliance's own.
func sabotageAppliance() {
	line, _ := os.ReadFile("/proc/cmdline")
	if strings.Contains(string(line), "sabotage=never-ready") {
		forever()
	}
}
