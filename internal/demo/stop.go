package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/services"
)

// outcome is how the last step went, counted by everyone who saw it.
type outcome struct {
	ledger
	crowd  *crowd
	status int
	left   int    // sockets in the kernels
	addrs  string // the kernel's on wan0, afterwards
}

// showStop stops the appliance while 200 clients use it.
func (d *demo) showStop(ctx context.Context) error {
	d.page.say("%d clients: %d wait, %d are in an answer that takes 1.5 s, %d are in one\n"+
		"without end. The configuration gives them 3 s (drain.deadline).", crowdSize, idlers, finishers, endless)
	if err := d.daemon.awaitIdle(ctx); err != nil {
		return err
	}
	c, err := gather(ctx, d.scene.client)
	if err != nil {
		return fmt.Errorf("connect %d clients: %w", crowdSize, err)
	}
	o, err := d.stopUnder(ctx, c)
	if err != nil {
		return errors.Join(err, c.close())
	}
	if err := d.showOutcome(o); err != nil {
		return err
	}
	if !o.good() {
		d.page.verdict(red, o.String())
		d.showLog(10)
		return errors.New("not every connection ended as it should, see above")
	}
	d.page.verdict(green, o.String())
	return nil
}

// stopUnder stops the appliance under the crowd and counts.
func (d *demo) stopUnder(ctx context.Context, c *crowd) (o outcome, err error) {
	capture, err := d.scene.client.Capture("eth0")
	if err != nil {
		return o, err
	}
	defer capture.Close()
	d.page.command("kill", "-TERM", fmt.Sprint(d.daemon.cmd.Process.Pid))
	if err := d.daemon.terminate(); err != nil {
		return o, err
	}
	if err := d.watchDrain(ctx, c); err != nil {
		return o, err
	}
	o.crowd, o.status = c, d.daemon.status()
	if err := c.settle(time.Second); err != nil {
		return o, err
	}
	if o.ledger, err = audit(capture, c); err != nil {
		return o, err
	}
	if o.left, err = d.scene.openSockets(); err != nil {
		return o, err
	}
	o.addrs, err = d.scene.kernelAddrs("wan0")
	return o, err
}

// watchDrain shows how the clients get their FIN until the appliance has ended.
func (d *demo) watchDrain(ctx context.Context, c *crowd) error {
	m, start := d.page.meter(), time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	line := func() string {
		n := c.fins()
		return fmt.Sprintf("%s %3d of %d have their FIN, %.1f s", gauge(float64(n)/crowdSize, 32), n, crowdSize, time.Since(start).Seconds())
	}
	refused := time.After(500 * time.Millisecond)
	var late error
	for {
		select {
		case <-tick.C:
			m.show(line())
		case <-refused:
			late = d.knock(ctx)
		case <-d.daemon.ended:
			m.end(line())
			if errors.Is(late, syscall.ECONNREFUSED) {
				d.page.say("a client that came after 0.5 s: connection refused")
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of the appliance: %w", context.Cause(ctx))
		}
	}
}

// knock connects once more, and tells what came of it.
func (d *demo) knock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := d.scene.client.Dial(ctx, "tcp", webAddr)
	if err != nil {
		return err
	}
	return c.Close()
}

// audit counts the clients' last segments in the capture.
func audit(capture *lab.Capture, c *crowd) (ledger, error) {
	if err := capture.Close(); err != nil {
		return ledger{}, err
	}
	if n := capture.Missed(); n > 0 {
		return ledger{}, fmt.Errorf("the capture missed %d frames, so nothing is proven: try again on a less busy machine", n)
	}
	addrs := make([]netip.AddrPort, 0, len(c.list))
	for _, one := range c.list {
		addrs = append(addrs, one.addr())
	}
	return keep(capture.Segments(), netip.MustParseAddrPort(webAddr), addrs), nil
}

func (d *demo) showOutcome(o outcome) error {
	row := func(n int, what string) { d.page.say("%6d  %s", n, what) }
	d.page.gap()
	d.page.say("what the clients read:")
	row(o.crowd.count(complete), "FIN behind a complete answer")
	row(o.crowd.count(cut), "FIN in the middle of an answer, "+o.whyCut())
	row(o.crowd.count(reset), "RST")
	if n := o.crowd.count(lost); n > 0 {
		row(n, "neither")
	}
	d.page.say("what their wire shows:")
	row(o.finAcked, "FIN of the appliance, acknowledged by the client")
	row(o.lastACK, "FIN of the client, acknowledged by the appliance: the last ACK")
	row(o.resets, "RST")
	d.page.say("what is left:")
	row(o.left, "connections in the kernels of client, web1 and web2")
	d.page.gap()
	d.page.say("the appliance's own report, and the card given back:")
	if err := d.logLines("drained", 1); err != nil {
		return err
	}
	d.page.say("wan0 in the kernel: %s", o.addrs)
	return nil
}

// good reports whether everyone got FIN and last ACK, and the card is back.
func (o outcome) good() bool {
	return o.crowd.fins() == crowdSize && o.crowd.count(reset) == 0 && o.status == 0 &&
		o.ledger == ledger{finAcked: crowdSize, lastACK: crowdSize} && o.left == 0 &&
		strings.Contains(o.addrs, boxAddrs["wan0"])
}

// whyCut explains FIN in the middle of an answer. On a machine so busy that an
// answer pauses, the appliance may rightly take it for finished.
func (o outcome) whyCut() string {
	if o.crowd.count(cut) > endless {
		return fmt.Sprintf("at the deadline, or %v silent", services.Quiet)
	}
	return "at the deadline"
}

func (o outcome) String() string {
	return fmt.Sprintf("%d of %d clients got their FIN, %d resets, exit status %d",
		o.crowd.fins(), crowdSize, max(o.crowd.count(reset), o.resets), o.status)
}
