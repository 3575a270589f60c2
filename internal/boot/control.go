package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// control answers on a socket that root and the appliance's user may write to.
// What comes from there is judged as if it came from an attacker: an update must be signed, and
// the rest an operator may do anyway.
type control struct {
	http http.Server
	wg   sync.WaitGroup
}

// Paths of the control socket.
const (
	pathBox      = "/v1/box"
	pathLog      = "/v1/log"
	pathInstall  = "/v1/update"
	pathCommit   = "/v1/update/commit"
	pathRollback = "/v1/update/rollback"
	pathPower    = "/v1/power"
	pathReset    = "/v1/factory-reset"
)

func (b *Box) listenControl() (*control, error) {
	path := b.path(ControlSocket)
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for commands: %w", err)
	}
	if err := errors.Join(b.chown(path, 0, User), os.Chmod(path, 0o660)); err != nil {
		return nil, errors.Join(wrap("listen for commands", err), l.Close())
	}
	c := &control{http: http.Server{Handler: b.routes(), ReadHeaderTimeout: 10 * time.Second}}
	c.wg.Add(1)
	b.start(func() {
		defer c.wg.Done()
		_ = c.http.Serve(l) // until close
	})
	return c, nil
}

// close lets an answer that is under way leave.
func (c *control) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.http.Shutdown(ctx)
	_ = c.http.Close()
	c.wg.Wait()
}

func (b *Box) routes() http.Handler {
	m := http.NewServeMux()
	handle := func(route string, f func(r *http.Request) (any, error)) {
		m.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
			defer b.catch() // net/http would go on
			answerJSON(w, r, f)
		})
	}
	handle("GET "+pathBox, func(*http.Request) (any, error) { return b.status() })
	handle("GET "+pathLog, func(*http.Request) (any, error) { return string(b.lines.tail(1 << 20)), nil })
	handle("POST "+pathInstall, b.handleInstall)
	handle("POST "+pathCommit, func(*http.Request) (any, error) { return nil, b.commit("the operator says so") })
	handle("POST "+pathRollback, func(*http.Request) (any, error) { return b.rollback() })
	handle("POST "+pathPower, func(r *http.Request) (any, error) { return nil, b.handlePower(r) })
	handle("POST "+pathReset, func(*http.Request) (any, error) { return nil, b.askReset() })
	return m
}

func answerJSON(w http.ResponseWriter, r *http.Request, f func(r *http.Request) (any, error)) {
	out, err := f(r)
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusConflict)
		out = map[string]string{"error": err.Error()}
	}
	_ = json.NewEncoder(w).Encode(out) // who asked may be gone
}

// installing is held by an update: two at once make no sense.
func (b *Box) handleInstall(r *http.Request) (any, error) {
	if !b.installing.TryLock() {
		return nil, errors.New("another update is being installed")
	}
	defer b.installing.Unlock()
	return b.install(r.Body, r.URL.Query().Get("downgrade") != "")
}

func (b *Box) handlePower(r *http.Request) error {
	q := r.URL.Query()
	kind := Kind(q.Get("kind"))
	if kind != Reboot && kind != PowerOff {
		return fmt.Errorf("%q is neither %s nor %s", kind, Reboot, PowerOff)
	}
	b.order(Order{Kind: kind, Why: "asked by the operator", Suspend: q.Get("suspend") != ""})
	return nil
}
