package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// Options say how the demonstration is shown.
type Options struct {
	Out     io.Writer
	Color   bool
	Keep    bool   // leave it running before the last step, until the context is canceled
	Width   int    // columns of the terminal; 0 if Out is none
	Program string // path of the appliance's binary
}

// limit is how long the whole may take: something hangs if it takes longer.
const limit = 2 * time.Minute

// Run shows the demonstration. It is an error if something did not go as it
// should, also if a single client did not get its FIN. Outside of namespaces
// made by package lab it starts the program again inside, and does not return.
func Run(ctx context.Context, o Options) error {
	if err := lab.Enter(); err != nil {
		return fmt.Errorf("the demonstration needs network namespaces: %w", err)
	}
	d := &demo{page: &page{w: o.Out, color: o.Color, width: o.Width}, program: o.Program}
	d.page.title("Lastack: every connection gets its last ACK")
	return errors.Join(d.run(ctx, o.Keep), d.close())
}

// demo is the demonstration under way.
type demo struct {
	page    *page
	program string
	dir     string // everything on disk: configuration, log, socket, state
	scene   *scene
	daemon  *daemon
}

// step is one part with a heading. A long one says how it went by itself.
type step struct {
	title string
	show  func(context.Context) error
}

func (d *demo) run(ctx context.Context, keep bool) error {
	steps := []step{
		{"The network", d.showNetwork},
		{"The configuration", d.showConfiguration},
		{"The appliance takes the network cards", d.showStart},
		{"HTTP through the appliance", d.showRequests},
		{"Throughput, and the connections while it runs", d.showThroughput},
		{"Half-close: the client has finished, the server has not", d.showHalfClose},
	}
	if err := d.play(ctx, steps); err != nil {
		return err
	}
	if keep {
		if err := d.stay(ctx); err != nil {
			return err
		}
		// The signal that ends the waiting must not end what comes after it.
		ctx = context.WithoutCancel(ctx)
		if err := d.undoTrials(ctx); err != nil {
			return err
		}
	}
	return d.play(ctx, []step{{"Stopping under load: every client gets its FIN", d.showStop}})
}

// play shows steps. What fails because asked was canceled is not explained.
func (d *demo) play(asked context.Context, steps []step) error {
	ctx, cancel := context.WithTimeoutCause(asked, limit, fmt.Errorf("it took more than %v", limit))
	defer cancel()
	for _, s := range steps {
		d.page.heading(s.title)
		if err := s.show(ctx); err != nil {
			if asked.Err() != nil {
				return errors.New("stopped before its end; everything is cleaned up")
			}
			return err
		}
		if d.page.err != nil {
			return fmt.Errorf("write what happens: %w", d.page.err)
		}
	}
	return nil
}

// close takes down what run built, the last first.
func (d *demo) close() error {
	var errs []error
	if d.daemon != nil {
		d.daemon.kill()
	}
	if d.scene != nil {
		errs = append(errs, d.scene.close())
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}
