package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const (
	streams   = 4
	watchFor  = 5 * time.Second
	watchEach = 200 * time.Millisecond
)

// showThroughput downloads on several connections, and lists them meanwhile.
func (d *demo) showThroughput(ctx context.Context) error {
	d.page.say("%d downloads at once, as fast as the client's kernel gets them:", streams)
	l, err := startLoad(ctx, d.scene.client, "/fast", streams)
	if err != nil {
		return err
	}
	err = d.watch(ctx, l)
	if err == nil {
		d.page.gap()
		_, err = d.command("conns", "--brief", "--service", "web", "--socket", socketName)
	}
	return errors.Join(err, l.finish())
}

// watch shows the bytes per second that arrive.
func (d *demo) watch(ctx context.Context, l *load) error {
	m, start := d.page.meter(), time.Now()
	tick := time.NewTicker(watchEach)
	defer tick.Stop()
	at, had, top := start, l.bytes.Load(), 1.0
	for time.Since(start) < watchFor {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		now, has := time.Now(), l.bytes.Load()
		rate := float64(has-had) * 8 / now.Sub(at).Seconds()
		for top < rate/1e9 {
			top *= 2
		}
		at, had = now, has
		m.show(fmt.Sprintf("%s %5.2f Gbit/s", gauge(rate/1e9/top, 40), rate/1e9))
	}
	took := time.Since(start)
	mean := float64(l.bytes.Load()) * 8 / 1e9 / took.Seconds()
	m.end(fmt.Sprintf("%s %5.2f Gbit/s: %d MiB in %.0f s", gauge(mean/top, 40), mean, l.bytes.Load()>>20, took.Seconds()))
	if l.bytes.Load() == 0 {
		return errors.New("no byte of a download arrived")
	}
	return nil
}

// words are what showHalfClose has sorted.
const words = "pear\nfig\nquince\napple\nmedlar\n"

// showHalfClose ends the client's half first. The backend can't answer before:
// it sorts what it gets, and only FIN says that this was all.
func (d *demo) showHalfClose(ctx context.Context) error {
	conn, err := d.scene.client.Dial(ctx, "tcp", sortAddr)
	if err != nil {
		return fmt.Errorf("connect to the sort service: %w", err)
	}
	defer conn.Close()
	stop := closeOn(ctx, conn)
	defer stop()
	if err := finishHalf(conn.(*net.TCPConn)); err != nil {
		return fmt.Errorf("send to the sort service: %w", err)
	}
	start := time.Now()
	d.page.say("client -> %s, then FIN", strings.Join(strings.Fields(words), " "))
	var got strings.Builder
	for in, n := bufio.NewReader(conn), 1; ; n++ {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			break
		}
		if err != nil {
			return fmt.Errorf("read from the sort service: %w", err)
		}
		got.WriteString(line)
		d.page.say("server -> %-8s%4d ms after that FIN", strings.TrimSpace(line), time.Since(start).Milliseconds())
		if n == 1 {
			if _, err := d.command("conns", "--brief", "--service", "sort", "--socket", socketName); err != nil {
				return err
			}
		}
	}
	d.page.say("server -> FIN     %4d ms", time.Since(start).Milliseconds())
	if want := "apple\nfig\nmedlar\npear\nquince\n"; got.String() != want {
		return fmt.Errorf("the sort service answered %q, want %q", got.String(), want)
	}
	d.page.gap()
	d.page.say("CLOSE-WAIT: the client has finished. FIN-WAIT-2: the appliance has passed it\n" +
		"on, the server has acknowledged that and goes on sending.")
	return nil
}

// finishHalf sends the words and ends the sending half.
func finishHalf(c *net.TCPConn) error {
	if _, err := io.WriteString(c, words); err != nil {
		return err
	}
	return c.CloseWrite()
}
