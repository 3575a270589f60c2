package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/services"
)

// stay leaves everything running, with a few downloads so that there is
// something to see, and says what to try, until ctx ends.
func (d *demo) stay(ctx context.Context) error {
	l, err := startLoad(context.WithoutCancel(ctx), d.scene.client, "/slow", streams)
	if err != nil {
		return err
	}
	err = d.attend(ctx)
	_ = l.finish() // what was tried may have ended them
	return err
}

// undoTrials puts in order for the last step what was tried before it.
func (d *demo) undoTrials(ctx context.Context) error {
	rows, err := d.daemon.admin.Drains(ctx)
	if err != nil {
		return err
	}
	done := map[services.Target]bool{}
	for _, r := range rows { // newest first
		if done[r.Target] || r.Target.Conn != 0 {
			continue
		}
		done[r.Target] = true
		if err := d.daemon.admin.Undrain(ctx, r.Target.Name()); err == nil {
			d.page.command("appliance", "undrain", r.Target.Name())
		}
	}
	return nil
}

func (d *demo) attend(ctx context.Context) error {
	var a doors
	defer a.owned.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before the wait
	if err := a.openAll(ctx, d.scene.hosts()); err != nil {
		return err
	}
	d.showTrials(&a)
	select {
	case <-ctx.Done():
		d.page.gap()
		return nil
	case <-d.daemon.ended:
		d.showLog(10)
		return fmt.Errorf("the appliance has ended with status %d", d.daemon.status())
	}
}

// doors are threads that stand in the namespaces, for nsenter(1) to follow.
type doors struct {
	threads map[string]int // by the host's name
	owned   sync.WaitGroup
}

// openAll keeps one thread in every host until ctx ends.
func (a *doors) openAll(ctx context.Context, hosts []*lab.Host) error {
	a.threads = make(map[string]int)
	for _, h := range hosts {
		tid, err := a.open(ctx, h)
		if err != nil {
			return err
		}
		a.threads[h.Name()] = tid
	}
	return nil
}

func (a *doors) open(ctx context.Context, h *lab.Host) (int, error) {
	stands, failed := make(chan int, 1), make(chan error, 1)
	a.owned.Go(func() {
		failed <- h.Do(func() error {
			stands <- unix.Gettid()
			<-ctx.Done()
			return nil
		})
	})
	select {
	case tid := <-stands:
		return tid, nil
	case err := <-failed:
		return 0, err
	}
}

// showTrials prints commands for another terminal.
func (d *demo) showTrials(a *doors) {
	d.page.heading("It goes on: things to try in another terminal")
	program, socket := shortest(d.program), filepath.Join(d.dir, socketName)
	d.page.command(program, "status --socket", socket)
	d.page.command(program, "conns --socket", socket)
	d.page.command(program, "conns --closed --socket", socket)
	d.page.command("tail -f", filepath.Join(d.dir, logName))
	d.page.gap()
	if _, err := exec.LookPath("nsenter"); err != nil {
		d.page.say("With nsenter(1), of the package util-linux, there would be a way into the\nnamespaces; it is not installed here.")
	} else {
		d.showNamespaces(a)
	}
	d.page.gap()
	d.page.say("Ctrl-C stops the appliance under load and cleans up.")
}

// shortest is how a program is called from the directory the user is in.
func shortest(program string) string {
	here, err := os.Getwd()
	if err != nil {
		return program
	}
	if rel, err := filepath.Rel(here, program); err == nil && filepath.IsLocal(rel) && rel != filepath.Base(rel) {
		return rel
	}
	return program
}

// showNamespaces prints commands that run inside the hosts, those of which the
// programs are there.
func (d *demo) showNamespaces(a *doors) {
	inside := func(host, command string) {
		d.page.command("nsenter -U -n --preserve-credentials -t", fmt.Sprint(a.threads[host]), command)
	}
	fetch := `bash -c 'exec 3<>/dev/tcp/192.0.2.10/80; printf "GET / HTTP/1.0\r\n\r\n" >&3; cat <&3'`
	if _, err := exec.LookPath("curl"); err == nil {
		fetch = "curl http://192.0.2.10/"
	}
	d.page.say("the client asks:")
	inside("client", fetch)
	if _, err := exec.LookPath("ss"); err == nil {
		d.page.say("the kernel of web1 lists its connections:")
		inside("web1", "ss -tn")
	}
	d.page.say("a shell on the appliance's host:")
	inside("appliance", "bash")
}
