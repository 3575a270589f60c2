package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lastack/lastack/internal/history"
	"github.com/lastack/lastack/services"
)

// Client asks the daemon behind a socket.
type Client struct {
	socket string
	http   http.Client
}

// NewClient makes a client; nothing is connected before the first question.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status asks for the state of the daemon.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.get(ctx, "/v1/status", &s)
	return s, err
}

// Conns asks for the live connections.
func (c *Client) Conns(ctx context.Context) ([]services.Row, error) {
	var rows []services.Row
	err := c.get(ctx, "/v1/conns", &rows)
	return rows, err
}

// Ended asks for the last connections that ended, newest first.
func (c *Client) Ended(ctx context.Context) ([]services.Ended, error) {
	var rows []services.Ended
	err := c.get(ctx, "/v1/conns/ended", &rows)
	return rows, err
}

// Flows asks for the flow table.
func (c *Client) Flows(ctx context.Context) ([]Flow, error) {
	var rows []Flow
	err := c.get(ctx, "/v1/flows", &rows)
	return rows, err
}

// Conn asks for one connection. The error is services.ErrUnknown if nobody
// remembers it.
func (c *Client) Conn(ctx context.Context, id uint64) (Connection, error) {
	var one Connection
	err := c.get(ctx, fmt.Sprintf("/v1/conns/%d", id), &one)
	return one, err
}

// Kill ends a connection, how is "fin" or "rst".
func (c *Client) Kill(ctx context.Context, id uint64, how string) error {
	return c.ask(ctx, http.MethodPost, fmt.Sprintf("/v1/conns/%d/kill?how=%s", id, how), nil)
}

// Probe asks both sides of a connection whether they live.
func (c *Client) Probe(ctx context.Context, id uint64) (services.Probed, error) {
	var p services.Probed
	err := c.ask(ctx, http.MethodPost, fmt.Sprintf("/v1/conns/%d/probe", id), &p)
	return p, err
}

// Drains asks for the drains that go on and the last that are over.
func (c *Client) Drains(ctx context.Context) ([]services.DrainRow, error) {
	var rows []services.DrainRow
	err := c.get(ctx, "/v1/drain", &rows)
	return rows, err
}

// DrainReports asks for what the same drains left so far.
func (c *Client) DrainReports(ctx context.Context) ([]services.Report, error) {
	var all []services.Report
	err := c.get(ctx, "/v1/drain/report", &all)
	return all, err
}

// DrainPlan asks what a drain would do.
func (c *Client) DrainPlan(ctx context.Context, o DrainOrder) (DrainPlan, error) {
	var p DrainPlan
	err := c.get(ctx, "/v1/drain/plan?"+o.values().Encode(), &p)
	return p, err
}

// Drain begins a drain.
func (c *Client) Drain(ctx context.Context, o DrainOrder) error {
	return c.ask(ctx, http.MethodPost, "/v1/drain?"+o.values().Encode(), nil)
}

// Undrain takes a drain back.
func (c *Client) Undrain(ctx context.Context, target string) error {
	return c.ask(ctx, http.MethodPost, "/v1/undrain?"+url.Values{"target": {target}}.Encode(), nil)
}

// Upgrade hands everything over to another binary; path "" is the daemon's own.
// With liveOnly nothing happens if connections can't go over.
func (c *Client) Upgrade(ctx context.Context, path string, liveOnly bool) (Upgraded, error) {
	var u Upgraded
	err := c.ask(ctx, http.MethodPost, upgradePath+"?"+url.Values{"path": {path}, "live_only": {strconv.FormatBool(liveOnly)}}.Encode(), &u)
	return u, err
}

// Suspend saves everything and ends the daemon.
func (c *Client) Suspend(ctx context.Context) (Suspended, error) {
	var s Suspended
	err := c.ask(ctx, http.MethodPost, suspendPath, &s)
	return s, err
}

// Fetch gets what a URL names, over the daemon's stack. size is -1 if it is not known.
func (c *Client) Fetch(ctx context.Context, from string) (body io.ReadCloser, size int64, err error) {
	path := fetchPath + "?" + url.Values{"url": {from}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://appliance"+path, nil)
	if err != nil {
		return nil, 0, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, 0, c.explain(err)
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // the status says enough
		return nil, 0, errors.Join(errors.New(strings.TrimSpace(string(text))), res.Body.Close())
	}
	return res.Body, res.ContentLength, nil
}

// Reload puts the configuration file's difference in force.
func (c *Client) Reload(ctx context.Context) (ConfigDiff, error) {
	var d ConfigDiff
	err := c.ask(ctx, http.MethodPost, "/v1/reload", &d)
	return d, err
}

// ApplyConfig puts a text in force, which name is for messages.
func (c *Client) ApplyConfig(ctx context.Context, name string, text []byte, how Change) (ConfigDiff, error) {
	var d ConfigDiff
	v := how.values()
	v.Set("name", name)
	err := c.send(ctx, http.MethodPost, "/v1/config?"+v.Encode(), text, &d)
	return d, err
}

// RollbackConfig puts one of the history in force; 0 takes the change back that
// waits for its confirmation.
func (c *Client) RollbackConfig(ctx context.Context, number int, how Change) (ConfigDiff, error) {
	var d ConfigDiff
	v := how.values()
	v.Set("number", strconv.Itoa(number))
	err := c.ask(ctx, http.MethodPost, "/v1/config/rollback?"+v.Encode(), &d)
	return d, err
}

// ConfirmConfig keeps the change that waits for it.
func (c *Client) ConfirmConfig(ctx context.Context) error {
	return c.ask(ctx, http.MethodPost, "/v1/config/confirm", nil)
}

// ConfigHistory asks for what was in force, newest first.
func (c *Client) ConfigHistory(ctx context.Context) ([]history.Entry, error) {
	var all []history.Entry
	err := c.get(ctx, "/v1/config/history", &all)
	return all, err
}

// ConfigText asks for the text of one, 0 is what is in force.
func (c *Client) ConfigText(ctx context.Context, number int) (string, error) {
	var text string
	err := c.get(ctx, fmt.Sprintf("/v1/config?number=%d", number), &text)
	return text, err
}

// ConfigDiff asks what Reload would do.
func (c *Client) ConfigDiff(ctx context.Context) (ConfigDiff, error) {
	var d ConfigDiff
	err := c.get(ctx, "/v1/config/diff", &d)
	return d, err
}

// Stop makes the daemon drain and end.
func (c *Client) Stop(ctx context.Context) error { return c.ask(ctx, http.MethodPost, "/v1/stop", nil) }

func (o DrainOrder) values() url.Values {
	v := url.Values{"target": {o.Target}, "cause": {o.Cause}}
	if o.Deadline > 0 {
		v.Set("deadline", o.Deadline.String())
	}
	return v
}

func (how Change) values() url.Values {
	return url.Values{"confirm": {how.Confirm.String()}, "restart": {strconv.FormatBool(how.Restart)}}
}

func (c *Client) get(ctx context.Context, path string, v any) error {
	return c.ask(ctx, http.MethodGet, path, v)
}

// ask decodes the answer into v, unless that is nil.
func (c *Client) ask(ctx context.Context, method, path string, v any) error {
	return c.send(ctx, method, path, nil, v)
}

// What was asked in the moment of an upgrade is asked again, of the new process.
const (
	movedWithin = 10 * time.Second
	movedPause  = 20 * time.Millisecond
)

// send is ask with a body.
func (c *Client) send(ctx context.Context, method, path string, body []byte, v any) error {
	err := c.sendOnce(ctx, method, path, body, v)
	if !errors.Is(err, errMoved) {
		return err
	}
	for end := time.Now().Add(movedWithin); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(movedPause) {
		if _, failed := os.Stat(c.socket); failed == nil {
			if err = c.sendOnce(ctx, method, path, body, v); !errors.Is(err, errMoved) && !errors.Is(err, errNobody) {
				return err
			}
		}
	}
	return err
}

func (c *Client) sendOnce(ctx context.Context, method, path string, text []byte, v any) error {
	var body io.Reader
	if text != nil {
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://appliance"+path, body)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound && strings.HasPrefix(path, "/v1/conns/"):
		return services.ErrUnknown
	case res.StatusCode == http.StatusMisdirectedRequest:
		return errMoved
	case res.StatusCode == http.StatusNoContent:
		return nil
	case res.StatusCode == http.StatusConflict || res.StatusCode == http.StatusBadRequest:
		text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // the status says enough
		return errors.New(strings.TrimSpace(string(text)))
	case res.StatusCode != http.StatusOK:
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1024)) // the status says enough
		return fmt.Errorf("the appliance at %s answers %s %s", c.socket, res.Status, strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(res.Body).Decode(v); err != nil {
		return fmt.Errorf("read the answer of the appliance at %s: %w", c.socket, err)
	}
	return nil
}

var errNobody = errors.New("no appliance runs")

// explain says what an operator can do about a socket that does not answer.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w behind %s: start it with `appliance run -c FILE`, or name its admin.socket with --socket", errNobody, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s belongs to another user: run this as the user the appliance runs as (sudo)", c.socket)
	}
	return fmt.Errorf("ask the appliance at %s: %w", c.socket, err)
}
