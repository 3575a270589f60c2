package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
)

// Client asks process 1.
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

// Status asks how the box is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.ask(ctx, http.MethodGet, pathBox, nil, &s)
	return s, err
}

// Log asks for the end of the log, up to a megabyte.
func (c *Client) Log(ctx context.Context) (string, error) {
	var s string
	err := c.ask(ctx, http.MethodGet, pathLog, nil, &s)
	return s, err
}

// Install sends a bundle, which is written as it comes.
func (c *Client) Install(ctx context.Context, r io.Reader, downgrade bool) (UpdateRecord, error) {
	var u UpdateRecord
	q := url.Values{}
	if downgrade {
		q.Set("downgrade", "1")
	}
	err := c.ask(ctx, http.MethodPost, pathInstall+"?"+q.Encode(), r, &u)
	return u, err
}

// Commit marks the running slot as good.
func (c *Client) Commit(ctx context.Context) error {
	return c.ask(ctx, http.MethodPost, pathCommit, nil, nil)
}

// Rollback makes the other slot the next to boot, and tells what that is.
func (c *Client) Rollback(ctx context.Context) (string, error) {
	var to string
	err := c.ask(ctx, http.MethodPost, pathRollback, nil, &to)
	return to, err
}

// Power ends this boot. With suspend connections are saved for the next one.
func (c *Client) Power(ctx context.Context, kind Kind, suspend bool) error {
	q := url.Values{"kind": {string(kind)}}
	if suspend {
		q.Set("suspend", "1")
	}
	return c.ask(ctx, http.MethodPost, pathPower+"?"+q.Encode(), nil, nil)
}

// FactoryReset makes the next boot forget all settings.
func (c *Client) FactoryReset(ctx context.Context) error {
	return c.ask(ctx, http.MethodPost, pathReset, nil, nil)
}

// maxAnswer bounds what process 1 says, in bytes.
const maxAnswer = 8 << 20

func (c *Client) ask(ctx context.Context, method, path string, body io.Reader, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://box"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask process 1: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var refused struct{ Error string }
		if json.Unmarshal(text, &refused) != nil || refused.Error == "" {
			return fmt.Errorf("ask process 1: %s", resp.Status)
		}
		return errors.New(refused.Error)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(text, v)
}

// explain says it in words of the one at the keyboard.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no firmware runs here: nobody answers on %s (on a server of your own, your system reboots and updates itself)", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("permission denied on %s", c.socket)
	}
	return fmt.Errorf("ask process 1: %w", err)
}
